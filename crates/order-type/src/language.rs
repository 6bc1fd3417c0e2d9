//! The languages in which types speak to their clients, and the texts in each.

use serde_json::Value;

/// A language of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Language {
    #[default]
    English,
    Spanish,
    Portuguese,
}

impl Language {
    pub const CODES: [&'static str; 3] = ["en", "es", "pt"];

    pub fn of(code: &str) -> Option<Self> {
        match code {
            "en" => Some(Self::English),
            "es" => Some(Self::Spanish),
            "pt" => Some(Self::Portuguese),
            _ => None,
        }
    }

    /// One of three texts.
    pub fn pick(self, english: &'static str, spanish: &'static str, portuguese: &'static str) -> &'static str {
        match self {
            Self::English => english,
            Self::Spanish => spanish,
            Self::Portuguese => portuguese,
        }
    }

    /// What a status says of a field that it needs.
    pub fn not_done_yet(self) -> &'static str {
        self.pick(
            "is not possible before the order's steps are done",
            "no es posible antes de terminar los pasos de la orden",
            "não é possível antes de terminar os passos do pedido",
        )
    }

    pub fn required_for_status(self) -> &'static str {
        self.pick(
            "is required for this status",
            "es obligatorio para este estado",
            "é obrigatório para este estado",
        )
    }

    /// What is wrong with a value that breaks a keyword of its schema. `limit` is the keyword's value.
    pub fn keyword(self, keyword: &str, limit: &Value) -> String {
        let is_one = *limit == 1;
        let text = match keyword {
            "required" | "dependentRequired" => self.pick("is required", "es obligatorio", "é obrigatório"),
            "type" => return self.type_text(limit),
            "format" => return self.format_text(limit.as_str().unwrap_or_default()),
            "minimum" => self.pick("must be at least {}", "debe ser al menos {}", "deve ser pelo menos {}"),
            "maximum" => self.pick("must be at most {}", "debe ser como máximo {}", "deve ser no máximo {}"),
            "exclusiveMinimum" => self.pick("must be more than {}", "debe ser mayor que {}", "deve ser maior que {}"),
            "exclusiveMaximum" => self.pick("must be less than {}", "debe ser menor que {}", "deve ser menor que {}"),
            "multipleOf" => self.pick(
                "must be a multiple of {}",
                "debe ser múltiplo de {}",
                "deve ser múltiplo de {}",
            ),
            "minLength" | "minItems" | "minProperties" if is_one => {
                self.pick("must not be empty", "no puede estar vacío", "não pode estar vazio")
            }
            "minLength" => self.pick(
                "must have at least {} characters",
                "debe tener al menos {} caracteres",
                "deve ter pelo menos {} caracteres",
            ),
            "maxLength" => self.pick(
                "must have at most {} characters",
                "debe tener como máximo {} caracteres",
                "deve ter no máximo {} caracteres",
            ),
            "minItems" | "minProperties" => self.pick(
                "must have at least {} entries",
                "debe tener al menos {} elementos",
                "deve ter pelo menos {} elementos",
            ),
            "maxItems" | "maxProperties" => self.pick(
                "must have at most {} entries",
                "debe tener como máximo {} elementos",
                "deve ter no máximo {} elementos",
            ),
            "uniqueItems" => self.pick(
                "must not have the same entry twice",
                "no puede repetir elementos",
                "não pode repetir elementos",
            ),
            "pattern" => self.pick(
                "must match the pattern {}",
                "debe cumplir el patrón {}",
                "deve cumprir o padrão {}",
            ),
            "enum" => self.pick("must be one of {}", "debe ser uno de {}", "deve ser um de {}"),
            "const" => self.pick("must be {}", "debe ser {}", "deve ser {}"),
            "additionalProperties"
            | "unevaluatedProperties"
            | "additionalItems"
            | "unevaluatedItems"
            | "falseSchema"
            | "propertyNames" => self.pick("is not expected here", "no se espera aquí", "não é esperado aqui"),
            "contains" => self.pick(
                "lacks an entry that it needs",
                "no tiene un elemento necesario",
                "não tem um elemento necessário",
            ),
            _ => self.pick(
                "has none of the forms that are allowed",
                "no tiene ninguna de las formas permitidas",
                "não tem nenhuma das formas permitidas",
            ),
        };
        text.replace("{}", &self.shown(limit))
    }

    fn shown(self, limit: &Value) -> String {
        match limit {
            Value::Array(items) => items.iter().map(|item| self.shown(item)).collect::<Vec<_>>().join(", "),
            Value::String(text) => format!("\"{text}\""),
            other => other.to_string(),
        }
    }

    fn type_text(self, limit: &Value) -> String {
        let one = |name: &str| match name {
            "string" => self.pick("a text", "un texto", "um texto"),
            "number" => self.pick("a number", "un número", "um número"),
            "integer" => self.pick("a whole number", "un número entero", "um número inteiro"),
            "boolean" => self.pick("true or false", "verdadero o falso", "verdadeiro ou falso"),
            "array" => self.pick("a list", "una lista", "uma lista"),
            "object" => self.pick("an object", "un objeto", "um objeto"),
            _ => self.pick("null", "nulo", "nulo"),
        };
        let names: Vec<&str> = match limit {
            Value::Array(names) => names.iter().filter_map(Value::as_str).map(one).collect(),
            other => vec![one(other.as_str().unwrap_or_default())],
        };
        let list = names.join(self.pick(" or ", " o ", " ou "));
        format!("{} {list}", self.pick("must be", "debe ser", "deve ser"))
    }

    fn format_text(self, format: &str) -> String {
        let what = match format {
            "money" => self.pick(
                "an exact amount of money, with at most 28 digits",
                "un importe exacto, con 28 dígitos como máximo",
                "um valor exato, com no máximo 28 dígitos",
            ),
            "iso4217" => self.pick(
                "a currency code of ISO 4217, such as EUR",
                "un código de moneda ISO 4217, por ejemplo EUR",
                "um código de moeda ISO 4217, por exemplo EUR",
            ),
            "email" | "idn-email" => self.pick(
                "an e-mail address",
                "una dirección de correo electrónico",
                "um endereço de e-mail",
            ),
            "date" => self.pick("a date", "una fecha", "uma data"),
            "date-time" => self.pick(
                "a date and time (RFC 3339)",
                "una fecha y hora (RFC 3339)",
                "uma data e hora (RFC 3339)",
            ),
            "uuid" => self.pick("a UUID", "un UUID", "um UUID"),
            "uri" => self.pick("a URI", "una URI", "uma URI"),
            other => {
                let text = self.pick(
                    "must have the format {}",
                    "debe tener el formato {}",
                    "deve ter o formato {}",
                );
                return text.replace("{}", other);
            }
        };
        format!("{} {what}", self.pick("must be", "debe ser", "deve ser"))
    }

    /// The text of an answer's code, where this language has one of its own; English answers bring their text along.
    pub fn answer(self, code: &str) -> Option<&'static str> {
        if self == Self::English {
            return None;
        }
        let (spanish, portuguese) = match code {
            "malformed-json" | "malformed" | "json" => ("El cuerpo no es JSON válido", "O corpo não é JSON válido"),
            "not-an-object" => ("El cuerpo debe ser un objeto JSON", "O corpo deve ser um objeto JSON"),
            "invalid-data" | "invalid" | "invalid-order" => ("Los datos no son válidos", "Os dados não são válidos"),
            "unknown-order" | "order-not-found" => ("No existe esa orden", "Essa ordem não existe"),
            "not-found" | "unknown-route" => ("No existe lo que se ha pedido", "O que foi pedido não existe"),
            "unknown-status" => ("El estado no existe", "O estado não existe"),
            "illegal-transition" => (
                "La orden no puede pasar a ese estado",
                "A ordem não pode passar a esse estado",
            ),
            "final" | "order-final" => (
                "La orden está en un estado final y no puede cambiar",
                "A ordem está em um estado final e não pode mudar",
            ),
            "not-cancellable" => ("La orden ya no se puede cancelar", "A ordem já não pode ser cancelada"),
            "undoing" => (
                "La orden está deshaciendo sus pasos",
                "A ordem está desfazendo os seus passos",
            ),
            "fixed" | "fixed-field" => (
                "Ese campo no puede cambiar después de la aceptación",
                "Esse campo não pode mudar depois da aceitação",
            ),
            "requires" | "required-fields" | "missing-fields" => {
                ("Faltan campos para ese estado", "Faltam campos para esse estado")
            }
            "key-taken" | "duplicate-key" => (
                "Ese identificador ya pertenece a otra orden",
                "Esse identificador já pertence a outra ordem",
            ),
            "idempotency-key-reused" => (
                "La clave de idempotencia ya se usó con otro contenido",
                "A chave de idempotência já foi usada com outro conteúdo",
            ),
            "too-large" => ("El contenido es demasiado grande", "O conteúdo é grande demais"),
            "busy" | "overloaded" | "unavailable" | "too-many-requests" => (
                "El servicio está ocupado; inténtelo de nuevo en un momento",
                "O serviço está ocupado; tente novamente em instantes",
            ),
            "method-not-allowed" => ("El método no está permitido aquí", "O método não é permitido aqui"),
            "unauthorized" | "unauthenticated" => {
                ("Falta una clave de acceso válida", "Falta uma chave de acesso válida")
            }
            "forbidden" => (
                "La clave no permite esta operación",
                "A chave não permite esta operação",
            ),
            "precondition-failed" | "precondition-required" => {
                ("La orden ha cambiado entretanto", "A ordem mudou entretanto")
            }
            "internal" | "store" => ("Ha ocurrido un error interno", "Ocorreu um erro interno"),
            _ => return None,
        };
        Some(self.pick("", spanish, portuguese))
    }

    /// `Allowed:` before the statuses that an order may go to.
    pub fn allowed(self) -> &'static str {
        self.pick("Allowed", "Permitidos", "Permitidos")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keywords_in_each_language() {
        let text = |code: &str, keyword: &str, limit: Value| Language::of(code).unwrap().keyword(keyword, &limit);
        assert_eq!(text("en", "minimum", json!(1)), "must be at least 1");
        assert_eq!(text("es", "type", json!("number")), "debe ser un número");
        assert_eq!(
            text("pt", "type", json!(["string", "null"])),
            "deve ser um texto ou nulo"
        );
        assert_eq!(text("en", "minItems", json!(1)), "must not be empty");
        assert_eq!(text("en", "minItems", json!(2)), "must have at least 2 entries");
        assert_eq!(text("en", "enum", json!(["a", 1])), "must be one of \"a\", 1");
        assert_eq!(
            text("es", "oneOf", json!([])),
            "no tiene ninguna de las formas permitidas"
        );
    }

    #[test]
    fn every_code_has_a_language() {
        assert!(Language::CODES.iter().all(|code| Language::of(code).is_some()));
        assert_eq!(Language::of("de"), None);
        assert_eq!(Language::English.answer("busy"), None);
        assert_eq!(Language::Spanish.answer("unknown-order"), Some("No existe esa orden"));
    }
}
