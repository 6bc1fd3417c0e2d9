//! Rows as columns: PostgreSQL takes many rows in one statement as one array per column.

/// Declares the columns of one kind of rows once: their names, what is in them, and PostgreSQL's type. A row is given
/// whole, so that no column falls behind the others.
macro_rules! columns {
    ($rows:ident of $row:ident: $($name:ident: $element:ty = $kind:ident,)*) => {
        #[derive(Debug)]
        struct $row {
            $($name: $element,)*
        }

        #[derive(Debug, Default)]
        struct $rows {
            $($name: Vec<$element>,)*
        }

        #[allow(dead_code, reason = "not every kind of rows is both inserted and passed to a function")]
        impl $rows {
            fn push(&mut self, row: $row) {
                $(self.$name.push(row.$name);)*
            }

            fn parameters(&self) -> impl Iterator<Item = crate::server::Parameter<'_>> {
                [$((&self.$name as &(dyn ToSql + Sync), Type::$kind),)*].into_iter()
            }

            /// Inserts the rows into a table whose columns have these names.
            async fn insert(
                &self,
                transaction: &tokio_postgres::Transaction<'_>,
                table: &str,
            ) -> Result<(), tokio_postgres::Error> {
                let names = [$(stringify!($name)),*].join(", ");
                let parameters: Vec<_> = self.parameters().collect();
                let places: Vec<String> = (1..=parameters.len()).map(|place| format!("${place}")).collect();
                let statement = format!(
                    "INSERT INTO comanda.{table} ({names}) SELECT * FROM unnest({})",
                    places.join(", ")
                );
                transaction.query_typed(&statement, &parameters).await?;
                Ok(())
            }
        }
    };
}

pub(crate) use columns;
