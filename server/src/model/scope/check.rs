//! What a payload filter may be made of.
//!
//! That bounds what it can cost. Invariant: there is no loop but `all` and `exists`, and inside one only its own variable is in
//! sight, so that nested loops see each value of the body once per loop; nothing builds values (no `+`, no `map`, no literals
//! but scalars and lists of them after `in`), so that evaluation takes no memory to speak of. Evaluating then takes time in the
//! product of the expression's and the body's sizes, at most.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, operators as op};

use super::filter::{BODY, InvalidFilter, Place, echo};
use crate::limits::{PAYLOAD_FILTER_DEPTH_MAX, PAYLOAD_FILTER_NODES_MAX};

/// Calls that look at values and build none.
const FUNCTIONS: [&str; 17] = [
    op::LOGICAL_AND,
    op::LOGICAL_OR,
    op::LOGICAL_NOT,
    op::CONDITIONAL,
    op::EQUALS,
    op::NOT_EQUALS,
    op::LESS,
    op::LESS_EQUALS,
    op::GREATER,
    op::GREATER_EQUALS,
    op::IN,
    op::INDEX,
    op::NEGATE,
    "size",
    "int",
    "double",
    "bool",
];
/// The same, called on a value.
const METHODS: [&str; 4] = ["startsWith", "endsWith", "contains", "size"];

/// How many parts an expression has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// All of them.
    pub(super) all: u64,
    /// Those that may look at all of the body.
    pub(super) costly: u64,
}

/// Refuses what may not be in an expression, and counts the rest.
pub(super) fn measure(text: &str, expression: &IdedExpr) -> Result<Size, InvalidFilter> {
    let mut check = Check { text, size: Size::default(), depth: 0 };
    check.expression(expression, Scope { variable: BODY, looping: false })?;
    Ok(check.size)
}

/// Refuses what would make the parser recurse too deeply: it does not count every kind of nesting.
pub(super) fn nests_little(text: &str) -> Result<(), InvalidFilter> {
    let (mut depth, mut deepest, mut prefixes, mut most_prefixes, mut choices) = (0_usize, 0, 0_usize, 0, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'?' => choices += 1,
            _ => {}
        }
        prefixes = if matches!(byte, b'!' | b'-') { prefixes + 1 } else { 0 };
        deepest = deepest.max(depth);
        most_prefixes = most_prefixes.max(prefixes);
    }
    let depth_max = usize::from(PAYLOAD_FILTER_DEPTH_MAX);
    if deepest > depth_max || most_prefixes > depth_max || choices > depth_max {
        let problem = format!("must not nest deeper than {PAYLOAD_FILTER_DEPTH_MAX}");
        return Err(InvalidFilter { place: Place(None), problem });
    }
    Ok(())
}

/// What is in sight at a place in an expression.
#[derive(Clone, Copy)]
struct Scope<'a> {
    variable: &'a str,
    looping: bool,
}

/// A walk through an expression that refuses what is not allowed and counts the rest.
struct Check<'a> {
    text: &'a str,
    size: Size,
    depth: u16,
}

impl Check<'_> {
    fn refuse(&self, word: &str, problem: String) -> InvalidFilter {
        InvalidFilter { place: Place(position(self.text, word)), problem }
    }

    fn count(&mut self, costly: bool) -> Result<(), InvalidFilter> {
        self.size.all += 1;
        self.size.costly += u64::from(costly);
        if self.size.all > PAYLOAD_FILTER_NODES_MAX as u64 {
            return Err(self.refuse("", format!("must not have more than {PAYLOAD_FILTER_NODES_MAX} parts")));
        }
        Ok(())
    }

    fn expression(&mut self, expression: &IdedExpr, scope: Scope<'_>) -> Result<(), InvalidFilter> {
        if self.depth > PAYLOAD_FILTER_DEPTH_MAX {
            return Err(self.refuse("", format!("must not nest deeper than {PAYLOAD_FILTER_DEPTH_MAX}")));
        }
        self.depth += 1;
        self.kind(&expression.expr, scope)?;
        self.depth -= 1;
        Ok(())
    }

    fn kind(&mut self, expression: &Expr, scope: Scope<'_>) -> Result<(), InvalidFilter> {
        match expression {
            Expr::Literal(_) => self.count(scope.looping),
            Expr::Ident(name) if name == scope.variable => self.count(scope.looping),
            Expr::Ident(name) => {
                let inside = if scope.looping {
                    "inside `all` and `exists` only their own variable is in sight"
                } else {
                    "the event's body is called `body`"
                };
                Err(self.refuse(name, format!("there is no {:?} here; {inside}", echo(name))))
            }
            Expr::Select(select) => {
                self.count(scope.looping)?;
                self.expression(&select.operand, scope)
            }
            Expr::List(list) => {
                // Allowed where it is what something must be in; checked there.
                Err(self.refuse(
                    "[",
                    format!(
                        "a list may only stand after `in`, as in `body.x in [1, 2]` ({} here)",
                        list.elements.len()
                    ),
                ))
            }
            Expr::Call(call) => self.call(call, scope),
            Expr::Comprehension(looped) => self.comprehension(looped, scope),
            Expr::Map(_) | Expr::Struct(_) => Err(self.refuse("{", "values in braces are not available".into())),
            Expr::Unspecified => Err(self.refuse("", "is no expression".into())),
        }
    }

    fn call(&mut self, call: &CallExpr, scope: Scope<'_>) -> Result<(), InvalidFilter> {
        let name = call.func_name.as_str();
        let known = if call.target.is_some() { METHODS.contains(&name) } else { FUNCTIONS.contains(&name) };
        if !known {
            let word = name.trim_matches(['_', '@', '[', ']']);
            return Err(self.refuse(word, format!("{:?} is not available", echo(word))));
        }
        let orders = [op::LESS, op::LESS_EQUALS, op::GREATER, op::GREATER_EQUALS].contains(&name);
        let compares = [op::EQUALS, op::NOT_EQUALS, "startsWith", "endsWith"].contains(&name);
        let measures = ["size", "contains", "int", "double", "bool"].contains(&name);
        let mut among = orders || measures || (compares && !call.args.iter().any(is_literal));
        if name == op::IN
            && let [_, list] = call.args.as_slice()
        {
            if let Expr::List(list) = &list.expr {
                if !list.elements.iter().all(is_literal) {
                    return Err(self.refuse("[", "a list may hold only literals".into()));
                }
                self.count(scope.looping)?;
                for element in &list.elements {
                    self.expression(element, scope)?;
                }
                return self.expression(&call.args[0], scope);
            }
            among = true;
        }
        self.count(scope.looping || among)?;
        call.target.iter().map(|target| &**target).chain(&call.args).try_for_each(|part| self.expression(part, scope))
    }

    fn comprehension(&mut self, looped: &ComprehensionExpr, scope: Scope<'_>) -> Result<(), InvalidFilter> {
        self.count(true)?;
        self.expression(&looped.iter_range, scope)?;
        // `all` and `exists` expand to: so far and, or or, the condition.
        if let Expr::Call(step) = &looped.loop_step.expr
            && looped.iter_var2.is_none()
            && [op::LOGICAL_AND, op::LOGICAL_OR].contains(&step.func_name.as_str())
        {
            let inner = Scope { variable: &looped.iter_var, looping: true };
            return step.args.iter().skip(1).try_for_each(|condition| self.expression(condition, inner));
        }
        Err(self.refuse("", "of the macros only `has`, `all` and `exists` are available".into()))
    }
}

fn is_literal(expression: &IdedExpr) -> bool {
    if let Expr::Call(call) = &expression.expr {
        return call.func_name == op::NEGATE && call.args.iter().all(is_literal);
    }
    matches!(expression.expr, Expr::Literal(_))
}

/// Line and column, from 1, of the first time the word stands in the text by itself.
fn position(text: &str, word: &str) -> Option<(isize, isize)> {
    if word.is_empty() {
        return None;
    }
    let part_of_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = text.as_bytes();
    let alone = |&(at, _): &(usize, &str)| {
        let is_word = part_of_word(word.as_bytes().first());
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        !is_word || !(part_of_word(before) || part_of_word(bytes.get(at + word.len())))
    };
    let (at, _) = text.match_indices(word).find(alone)?;
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[..at].matches('\n').count() + 1;
    let column = text[line_start..at].chars().count() + 1;
    Some((isize::try_from(line).ok()?, isize::try_from(column).ok()?))
}
