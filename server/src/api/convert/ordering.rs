//! Contract ⇄ model for the order of a webhook's deliveries.

use postrider_proto::v1;

use crate::{
    api::status::Violations,
    limits::ORDERING_SKIP_AFTER_MAX,
    model::ordering::{HeadRule, Ordering},
};

const RULE: &str = "webhook.ordering.head_rule";
const SKIP_AFTER: &str = "webhook.ordering.skip_after_attempts";

/// What a webhook's owner decides about order. `None` only with a violation.
pub(super) fn settings(violations: &mut Violations, ordered: bool, ordering: Option<v1::Ordering>) -> Option<Ordering> {
    let v1::Ordering { head_rule, skip_after_attempts } = ordering.unwrap_or_default();
    let head = match v1::HeadRule::try_from(head_rule) {
        Ok(v1::HeadRule::Unspecified | v1::HeadRule::Block) if skip_after_attempts == 0 => HeadRule::Block,
        Ok(v1::HeadRule::Unspecified | v1::HeadRule::Block) => {
            violations.add(SKIP_AFTER, "is for HEAD_RULE_SKIP only");
            return None;
        }
        Ok(v1::HeadRule::Skip) => {
            let head = u32::try_from(skip_after_attempts).ok().and_then(HeadRule::skip_after);
            if head.is_none() {
                violations.add(SKIP_AFTER, format!("must be between 1 and {ORDERING_SKIP_AFTER_MAX}"));
            }
            head?
        }
        Err(_) => {
            violations.add(RULE, "must be one of the values of HeadRule");
            return None;
        }
    };
    Some(Ordering { ordered, head })
}

/// The field that says so; `ordered` is one of its own.
pub(super) fn decided(ordering: Ordering) -> Option<v1::Ordering> {
    match ordering.head {
        HeadRule::Block if !ordering.ordered => None,
        HeadRule::Block => Some(v1::Ordering { head_rule: v1::HeadRule::Block.into(), skip_after_attempts: 0 }),
        HeadRule::Skip { after } => {
            Some(v1::Ordering { head_rule: v1::HeadRule::Skip.into(), skip_after_attempts: after.get().into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_checked_and_read_back() {
        let cases = [
            (None, true),
            (Some((v1::HeadRule::Unspecified as i32, 0)), true),
            (Some((v1::HeadRule::Block as i32, 0)), true),
            (Some((v1::HeadRule::Block as i32, 1)), false),
            (Some((v1::HeadRule::Unspecified as i32, 1)), false),
            (Some((v1::HeadRule::Skip as i32, 1)), true),
            (Some((v1::HeadRule::Skip as i32, 100)), true),
            (Some((v1::HeadRule::Skip as i32, 0)), false),
            (Some((v1::HeadRule::Skip as i32, 101)), false),
            (Some((v1::HeadRule::Skip as i32, -1)), false),
            (Some((7, 0)), false),
        ];
        for (rule, valid) in cases {
            let ordering = rule.map(|(head_rule, skip_after_attempts)| v1::Ordering { head_rule, skip_after_attempts });
            let mut violations = Violations::default();
            let read = settings(&mut violations, true, ordering);
            assert_eq!((read.is_some(), violations.check().is_ok()), (valid, valid), "{rule:?}");
            if let Some(read) = read {
                let again = settings(&mut Violations::default(), read.ordered, decided(read));
                assert_eq!(again, Some(read), "{rule:?}");
            }
        }
        assert_eq!(decided(Ordering::default()), None);
    }
}
