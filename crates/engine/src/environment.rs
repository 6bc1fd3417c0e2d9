//! Which environment variables the steps read: those that the types to run name, and those of the versions that live
//! orders stand on.

use std::collections::BTreeSet;

use comanda_order_type::{Bundle, Definition, Known, environment_names as of_type, read};
use comanda_store::{Store, StoreError};

/// The names of the environment variables that these types read, and those that live orders of the store need.
///
/// A version that cannot be read names none: [`Service::start`](crate::Service::start) refuses it, and says why.
pub async fn environment_names(store: &dyn Store, definitions: &[Definition]) -> Result<BTreeSet<String>, StoreError> {
    let mut names = BTreeSet::new();
    for definition in definitions {
        names.extend(of_type(&definition.order_type));
    }
    for (hash, _) in store.live_types().await? {
        let Some(source) = store.type_source(hash).await? else {
            continue;
        };
        let Ok(bundle) = Bundle::from_source(&source.name, &source.source) else {
            continue;
        };
        if let Some(definition) = read(&bundle, &Known::default()).definition {
            names.extend(of_type(&definition.order_type));
        }
    }
    Ok(names)
}
