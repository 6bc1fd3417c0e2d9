//! Comparisons in templates, which are exact.
//!
//! A number with a fraction keeps its digits in templates, as an object of ours, and minijinja puts every object behind every
//! number: `data.total > 1000` would hold whatever the total is. minijinja leaves no way to say how an operator compares, but
//! tests can be replaced. So a template's comparisons are rewritten as tests before it is compiled, `a > b` as
//! `((a) is gt((b)))`, and the tests compare by value.

mod decimal;
mod rewrite;

use std::cmp::Ordering;
use std::sync::LazyLock;

use minijinja::value::Value;
use minijinja::{Environment, Error};

use crate::template::digits;

use decimal::Decimal;

pub use rewrite::rewritten;

/// Replaces the tests that compare, under all their names, and the filters `min` and `max`, with ones that compare numbers by
/// value, exactly.
pub fn compare_exactly(environment: &mut Environment<'_>) {
    type Holds = fn(&Value, &Value) -> bool;
    let tests: [(&[&'static str], Holds); 6] = [
        (&["eq", "equalto", "=="], are_equal),
        (&["ne", "!="], |one, other| !are_equal(one, other)),
        (&["lt", "lessthan", "<"], |one, other| compare(one, other).is_lt()),
        (&["le", "<="], |one, other| compare(one, other).is_le()),
        (&["gt", "greaterthan", ">"], |one, other| compare(one, other).is_gt()),
        (&["ge", ">="], |one, other| compare(one, other).is_ge()),
    ];
    for (names, holds) in tests {
        for name in names {
            environment.add_test(*name, move |one: Value, other: Value| holds(&one, &other));
        }
    }
    environment.add_filter("min", |values: Value| {
        Ok::<_, Error>(values.try_iter()?.min_by(compare).unwrap_or_default())
    });
    environment.add_filter("max", |values: Value| {
        Ok::<_, Error>(values.try_iter()?.max_by(compare).unwrap_or_default())
    });
}

fn number(value: &Value) -> Option<Decimal> {
    match digits(value) {
        Some(text) => Decimal::parse(&text),
        // A literal with a fraction is a float; its shortest text is the one that was written.
        None if value.is_number() => Decimal::parse(&value.to_string()),
        None => None,
    }
}

/// Whether two values are equal: numbers by value, all else as minijinja has it.
fn are_equal(one: &Value, other: &Value) -> bool {
    match (number(one), number(other)) {
        (Some(one), Some(other)) => one == other,
        _ => any_number(one) == any_number(other),
    }
}

/// How two values compare: numbers by value, all else as minijinja has it.
fn compare(one: &Value, other: &Value) -> Ordering {
    match (number(one), number(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => any_number(one).cmp(any_number(other)),
    }
}

/// Beside what is no number, any number does that equals no truth value.
fn any_number(value: &Value) -> &Value {
    static NUMBER: LazyLock<Value> = LazyLock::new(|| Value::from(0.5));
    if digits(value).is_some() { &NUMBER } else { value }
}

/// Compares two numbers given as JSON has them.
pub(crate) fn compare_digits(one: &str, other: &str) -> Option<Ordering> {
    Some(Decimal::parse(one)?.cmp(&Decimal::parse(other)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::expression::{ENVIRONMENT, environment};
    use crate::template::{Template, from_json};

    fn rendered(template: &str, data: &str) -> String {
        let context = from_json(&serde_json::from_str(&format!(r#"{{"data":{data}}}"#)).unwrap());
        Template::compile(template).unwrap().render(&context).unwrap()
    }

    #[test]
    fn numbers_compare_by_value_and_keep_their_digits() {
        for (total, is_over) in [
            ("14.90", false),
            ("1000", false),
            ("1000.00", false),
            ("1e3", false),
            ("0.1e4", false),
            ("-1000.5", false),
            ("1e-400", false),
            ("-1e400", false),
            ("1e-99999999999999999999", false),
            ("0.0", false),
            ("1000.01", true),
            ("1001", true),
            ("1000.00000000000000000000001", true),
            ("123456789012345678901234567890", true),
            ("1e400", true),
            ("1e99999999999999999999", true),
        ] {
            let data = format!(r#"{{"total":{total},"limit":1000,"exact":1000.000}}"#);
            for condition in [
                "data.total > 1000",
                "data.total>1e3",
                "1000.0 < data.total",
                "not data.total <= 1000",
                "data.total > data.limit",
                "data.total > data.exact",
                "data.total is gt(1000)",
                "data.total is gt 1000",
                "data['total'] > (500 + 500)",
                "0 < 1 and (data.total > 1000)",
                "500 < 1000 < data.total",
                "[data.total]|select('>', 1000)|list|length == 1",
            ] {
                let template = format!("{{% if {condition} %}}over{{% endif %}} {{{{ data.total }}}}");
                // `1e3` is `1e+3` to whoever has read it as JSON.
                let shown = serde_json::from_str::<serde_json::Value>(total).unwrap();
                let expected = format!("{} {shown}", if is_over { "over" } else { "" });
                assert_eq!(rendered(&template, &data), expected, "{condition}");
            }
            let whole = rendered("{{ data.total > 1000 }}", &data);
            assert_eq!(whole, is_over.to_string(), "{total}");
        }
        for equal in [
            "data.a == 14.9",
            "14.90 == data.a",
            "data.a == data.b",
            "data.c == 10",
            "data.c == data.d",
            "data.a != data.c",
        ] {
            let data = r#"{"a":14.90,"b":14.9,"c":10.0,"d":10}"#;
            assert_eq!(
                rendered(&format!("{{{{ 1 if {equal} else 0 }}}}"), data),
                "1",
                "{equal}"
            );
        }
    }

    #[test]
    fn the_least_is_the_least_by_value() {
        let data = r#"{"prices":[10,9.50,1e1],"none":[]}"#;
        assert_eq!(
            rendered("{{ data.prices|min }} {{ data.prices|max }}{{ data.none|min }}", data),
            "9.50 1e+1"
        );
    }

    #[test]
    fn what_is_no_number_compares_as_ever() {
        for (condition, holds) in [
            ("data.kind == 'gift'", true),
            ("data.kind == \"a > b\"", false),
            ("data.none == none", true),
            ("data.missing == none", false),
            ("data.missing < 1.5", true),
            ("data.missing < data.price", true),
            ("data.price < 'a'", true),
            ("data.kind != data.price", true),
            ("data.list == [1, 2]", true),
            ("data.flag == true", true),
            ("'if' == data.if", true),
            ("data.kind in ['gift'] and data.price < 10", true),
        ] {
            let data = r#"{"kind":"gift","none":null,"price":9.50,"list":[1,2],"flag":true,"if":"if"}"#;
            let template = format!("{{%- if {condition} -%}} 1 {{%- else -%}} 0 {{%- endif -%}}");
            assert_eq!(rendered(&template, data), if holds { "1" } else { "0" }, "{condition}");
        }
    }

    #[test]
    fn all_but_comparisons_stays_as_it_is() {
        for text in [
            "a > b { { c == d",
            "{# a > b #}{{ a }}",
            "{% raw %}{{ a > b }}{% endraw %}{{- a -}}",
            "{% for x in data.list if x %}{{ loop.index }}{% endfor %}",
            "{{ 'a > b' ~ \"c \\\" == d\" }}",
            "{{ {'a': {'b': 1}}}}",
            "{% set x = {'a': [1, 2][0]} %}",
        ] {
            assert_eq!(rewritten(text).as_deref(), Some(text));
        }
        assert_eq!(
            rewritten("{%- if a.b >= f(c == 1, k=d<2) -%}{{ x[a != b] }}{% endif %}").as_deref(),
            Some(
                "{%- if ((a.b) is ge((f(((c) is eq((1))), k=((d) is lt((2))))))) -%}{{ x[((a) is ne((b)))] }}{% endif %}"
            )
        );
        let chain = Template::compile("{{ 'x' if a == b in c }}").unwrap_err();
        assert!(chain.message.contains("parentheses"), "{chain}");
    }

    /// Expressions of whole numbers and texts, of which minijinja's own comparisons are right.
    fn expression() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "1",
            "2",
            "-1",
            "n",
            "m.n",
            "'x'",
            "s",
            "[1, 2][0]",
            "{'k': 3}['k']",
            "m.if",
            "(n)",
            "[2,1]|first",
            "true",
            "none",
        ]);
        leaf.prop_map(str::to_owned).prop_recursive(4, 24, 3, |inner| {
            let operators = vec!["==", "!=", "<", "<=", ">", ">=", "and", "or", "+", "-", "*", "~", "//"];
            prop_oneof![
                6 => (inner.clone(), prop::sample::select(operators), inner.clone(), any::<bool>()).prop_map(
                    |(left, operator, right, spaced)| {
                        // Behind an operator minijinja takes `not` for the name of a variable.
                        let right = if right.starts_with("not ") { format!("({right})") } else { right };
                        let space = if spaced || operator.starts_with(char::is_alphabetic) { " " } else { "" };
                        format!("{left}{space}{operator}{space}{right}")
                    }
                ),
                2 => inner.clone().prop_map(|one| format!("({one})")),
                1 => inner.clone().prop_map(|one| format!("not {one}")),
                1 => inner.clone().prop_map(|one| format!("{one} is defined")),
                1 => inner.clone().prop_map(|one| format!("{one} is not none")),
                1 => inner.clone().prop_map(|one| format!("[{one}, 1]|length")),
                1 => (inner.clone(), inner.clone(), inner).prop_map(|(one, two, three)| format!("{one} if {two} else {three}")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_rewritten_expression_means_what_it_meant(expression in expression()) {
            let context = from_json(&json!({"n": 2, "m": {"n": 1, "if": 2}, "s": "x"}));
            let plain = Environment::new();
            if let Ok(expected) = plain.render_str(&format!("{{{{ {expression} }}}}"), &context) {
                let exact = rewritten(&format!("{{{{ {expression} }}}}")).unwrap();
                let found = environment().render_str(&exact, &context);
                prop_assert_eq!(found.unwrap(), expected, "{}", exact);
                let template = format!("{{% if ({expression}) %}}1{{% endif %}}");
                let expected = plain.render_str(&template, &context).unwrap();
                let found = ENVIRONMENT.render_str(&rewritten(&template).unwrap(), &context);
                prop_assert_eq!(found.unwrap(), expected, "{}", template);
            }
        }

        #[test]
        fn digits_compare_as_decimals_do(a in -9_999_999_999_i64..9_999_999_999, b in -99_999_i64..99_999, scale in 0..9_u32, other in 0..4_u32) {
            let (a, b) = (rust_decimal::Decimal::new(a, scale), rust_decimal::Decimal::new(b, other));
            prop_assert_eq!(compare_digits(&a.to_string(), &b.to_string()), Some(a.cmp(&b)));
        }

        #[test]
        fn no_text_is_too_much(text in "[{}%#a(>=)\\[\\]'\" -]{0,40}") {
            let _ = rewritten(&text);
        }
    }
}
