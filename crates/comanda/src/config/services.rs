//! Reads the settings of services: customers, stock, payments, shipments and mail. What is asked over HTTP is named here; what is
//! not named, Comanda does itself.

use comanda_builtin::HttpInventoryOptions;
use comanda_builtin::payments::HttpPaymentsOptions;
use comanda_builtin::shipments::HttpCarrierOptions;
use comanda_model::order_type::HttpCall;

use super::mail::{self, Mail, MailSettings};
use super::read::{optional_path, text};
use super::reader::Reader;
use super::{Shipments, calls};

impl Reader<'_> {
    /// `Some(None)`: Comanda keeps them itself.
    pub(super) fn customers(&mut self) -> Option<Option<HttpCall>> {
        let find = self.parse("customers.find", calls::call);
        let authorization = self.parse("customers.authorization", calls::shared);
        let sign = self.parse("customers.sign", calls::shared);
        let (find, authorization, sign) = (find?, authorization?, sign?);
        Some(find.map(|call| calls::authorized(call, &authorization, &sign)))
    }

    /// `Some(None)`: Comanda keeps it itself.
    pub(super) fn inventory(&mut self) -> Option<Option<HttpInventoryOptions>> {
        let names = ["reserve", "ship", "release", "release_by_key", "find"];
        let [reserve, ship, release, release_by_key, find] = self.service_calls("inventory", names)?;
        if [&reserve, &ship, &release, &release_by_key, &find]
            .iter()
            .all(|call| call.is_none())
        {
            return Some(None);
        }
        let options = || {
            Some(HttpInventoryOptions {
                reserve: reserve?,
                ship: ship?,
                release: release?,
                release_by_key: release_by_key?,
                find: find?,
            })
        };
        self.all_or_none("inventory", &names, options()).map(Some)
    }

    /// The calls to a service, with what they share: the `Authorization` header and the secret that signs.
    pub(super) fn service_calls<const N: usize>(
        &mut self,
        service: &str,
        names: [&str; N],
    ) -> Option<[Option<HttpCall>; N]> {
        let read = names.map(|name| self.parse(&format!("{service}.{name}"), calls::call));
        let authorization = self.parse(&format!("{service}.authorization"), calls::shared);
        let sign = self.parse(&format!("{service}.sign"), calls::shared);
        let (authorization, sign) = (authorization?, sign?);
        if read.iter().any(Option::is_none) {
            return None;
        }
        let with = |call: HttpCall| calls::authorized(call, &authorization, &sign);
        Some(read.map(|call| call.flatten().map(with)))
    }

    /// The options, or a fault that says that the calls belong together.
    pub(super) fn all_or_none<T>(&mut self, service: &str, names: &[&str], options: Option<T>) -> Option<T> {
        if options.is_none() {
            let (last, others) = names.split_last()?;
            let message = format!("{} and {last} are set together, or none of them", others.join(", "));
            self.fault(&format!("{service}.{}", names.first()?), message);
        }
        options
    }

    /// `Some(None)`: the sandbox takes them.
    pub(super) fn payments(&mut self) -> Option<Option<HttpPaymentsOptions>> {
        let names = ["authorize", "capture", "void", "void_by_key", "refund", "find"];
        let [authorize, capture, void, void_by_key, refund, find] = self.service_calls("payments", names)?;
        if [&authorize, &capture, &void, &void_by_key, &refund, &find]
            .iter()
            .all(|call| call.is_none())
        {
            return Some(None);
        }
        let options = || {
            Some(HttpPaymentsOptions {
                authorize: authorize?,
                capture: capture?,
                void: void?,
                void_by_key: void_by_key?,
                refund: refund?,
                find: find?,
            })
        };
        self.all_or_none("payments", &names, options()).map(Some)
    }

    pub(super) fn shipments(&mut self) -> Option<Shipments> {
        let names = ["create", "cancel", "cancel_by_key", "find"];
        let by_hand = self.switch("shipments.by_hand");
        let calls = self.service_calls("shipments", names);
        let (by_hand, [create, cancel, cancel_by_key, find]) = (by_hand?, calls?);
        if [&create, &cancel, &cancel_by_key, &find]
            .iter()
            .all(|call| call.is_none())
        {
            return Some(if by_hand { Shipments::ByHand } else { Shipments::Sandbox });
        }
        if by_hand {
            let message = "a shop ships by hand or by a carrier: set by_hand or the calls";
            self.fault("shipments.by_hand", message.to_owned());
            return None;
        }
        let options = || {
            Some(HttpCarrierOptions {
                create: create?,
                cancel: cancel?,
                cancel_by_key: cancel_by_key?,
                find: find?,
            })
        };
        let options = self.all_or_none("shipments", &names, options())?;
        Some(Shipments::Carrier(Box::new(options)))
    }

    /// `Some(None)`: there is no mail server.
    pub(super) fn mail(&mut self) -> Option<Option<Mail>> {
        let server = self.parse("mail.server", mail::server);
        let [from, user, password_env, password_file] =
            ["from", "user", "password_env", "password_file"].map(|name| self.parse(&format!("mail.{name}"), text));
        let tls = self.parse("mail.tls", mail::tls);
        let insecure = self.switch("mail.insecure");
        let [ca_file, templates] =
            ["ca_file", "templates"].map(|name| self.parse(&format!("mail.{name}"), optional_path));
        let connections_max = self.count("mail.connections_max", 1, 64);
        let language = self.parse("mail.language", mail::language);
        let settings = MailSettings {
            server: server?,
            from: from?,
            tls: tls?,
            insecure: insecure?,
            ca_file: ca_file?,
            user: user?,
            password_env: password_env?,
            password_file: password_file?,
            connections_max: connections_max?,
            templates: templates?,
            language: language?,
        };
        let read = settings.read();
        read.map_err(|(key, message)| self.fault(key, message)).ok()
    }
}
