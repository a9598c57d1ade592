//! Payload filters that could not be applied.

use super::label::Label;
use crate::model::scope::Trouble;

impl Label for Trouble {
    const NAME: &'static str = "error";
    const ALL: &'static [Self] = &[Self::NotJson, Self::Evaluation, Self::TooCostly];

    fn value(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::Evaluation => "evaluation",
            Self::TooCostly => "too_costly",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_keeps_its_promises() {
        super::super::label::check::<Trouble>();
    }
}
