//! E-mail addresses, telephone and card numbers, internet addresses and names within texts.
//!
//! Rules err on the side of replacing: a training text loses little by it.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// A kind of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersonalData {
    /// `local@domain.tld`.
    Email,
    /// 7 to 15 digits with a `+`, or with spaces, dots, dashes or parentheses between groups of them.
    Phone,
    /// 13 to 19 digits, also in groups, whose last one is right by Luhn's rule (ISO/IEC 7812-1).
    Card,
    /// IPv4 and IPv6 addresses.
    Ip,
    /// Names of a list.
    Name,
}

impl PersonalData {
    /// Every kind, in the order in which they are looked for: a card number would be a telephone number too.
    pub(super) const ALL: [PersonalData; 5] = [Self::Email, Self::Ip, Self::Card, Self::Phone, Self::Name];

    fn placeholder(self) -> &'static str {
        match self {
            Self::Email => "[EMAIL]",
            Self::Phone => "[PHONE]",
            Self::Card => "[CARD]",
            Self::Ip => "[IP]",
            Self::Name => "[NAME]",
        }
    }
}

/// A list of names, as words in lower case.
#[derive(Debug)]
pub(super) struct Names(Vec<Vec<String>>);

impl Names {
    pub(super) fn new(names: &[String]) -> Self {
        let words =
            |name: &String| name.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut names: Vec<Vec<String>> = names.iter().map(words).filter(|name| !name.is_empty()).collect();
        // "Ada Lovelace" goes before "Ada".
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self(names)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The text with a placeholder for each find of a kind, and how many there were.
pub(super) fn replace(text: &str, kind: PersonalData, names: &Names) -> (String, u64) {
    let mut result = String::with_capacity(text.len());
    let (mut count, mut at, mut copied) = (0, 0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let before = text[..at].chars().next_back();
        let length = match kind {
            PersonalData::Email => email(rest, before),
            PersonalData::Ip => ip(rest, before),
            PersonalData::Card => card(rest, before),
            PersonalData::Phone => phone(rest, before),
            PersonalData::Name => name(rest, before, names),
        };
        match length {
            Some(length) if length > 0 => {
                result.push_str(&text[copied..at]);
                result.push_str(kind.placeholder());
                (count, at) = (count + 1, at + length);
                copied = at;
            }
            _ => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    result.push_str(&text[copied..]);
    (result, count)
}

/// Length of the longest beginning whose characters all satisfy a condition.
fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

fn word(c: char) -> bool {
    c.is_alphanumeric()
}

fn email(text: &str, before: Option<char>) -> Option<usize> {
    let local = |c: char| word(c) || "._%+-'".contains(c);
    if before.is_some_and(local) {
        return None;
    }
    let name = run(text, local);
    let domain = text.get(name..)?.strip_prefix('@')?;
    if name == 0 {
        return None;
    }
    let length = run(domain, |c| word(c) || c == '.' || c == '-');
    // A period at the end ends the sentence.
    let domain = domain[..length].trim_end_matches(['.', '-']);
    let (host, top) = domain.rsplit_once('.')?;
    let proper = !host.is_empty() && top.chars().count() >= 2 && top.chars().all(char::is_alphabetic);
    proper.then_some(name + 1 + domain.len())
}

fn ip(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| word(c) || c == '.' || c == ':') {
        return None;
    }
    let length = run(text, |c| c.is_ascii_hexdigit() || c == '.' || c == ':');
    let next = text[length..].chars().next();
    let candidate = text[..length].trim_end_matches(['.', ':']);
    if next.is_some_and(word) {
        return None;
    }
    let parts: Vec<&str> = candidate.split('.').collect();
    let four = parts.len() == 4
        && parts.iter().all(|part| {
            (1..=3).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse::<u8>().is_ok()
        });
    // "12:30:45" and "::" are none.
    let six = candidate.matches(':').count() >= 2
        && candidate.bytes().any(|b| b.is_ascii_hexdigit())
        && candidate.parse::<Ipv6Addr>().is_ok();
    (four || six).then_some(candidate.len())
}

/// The digits at the beginning of a text, single separators between them allowed, and where the last one ends.
fn digits(text: &str, separators: &str) -> (Vec<u8>, usize) {
    let (mut digits, mut end, mut gap) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c.to_digit(10) {
            Some(digit) => {
                digits.push(digit as u8);
                (end, gap) = (i + 1, 0);
            }
            None if separators.contains(c) && gap < 2 => gap += 1,
            None => break,
        }
    }
    (digits, end)
}

fn card(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(word) || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (digits, end) = digits(text, " -");
    let whole = !text[end..].starts_with(word);
    (whole && (13..=19).contains(&digits.len()) && luhn(&digits)).then_some(end)
}

/// Luhn's rule: every second digit from the right counts twice, and the sum of all digits ends in 0.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &digit)| {
            let value = u32::from(digit) * (1 + i as u32 % 2);
            value / 10 + value % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

fn phone(text: &str, before: Option<char>) -> Option<usize> {
    let begins = |c: char| c.is_ascii_digit() || c == '+' || c == '(';
    if before.is_some_and(|c| word(c) || ".,:/+-$€£#".contains(c)) || !text.starts_with(begins) {
        return None;
    }
    let prefix = run(text, |c| c == '+' || c == '(');
    let (digits, end) = digits(&text[prefix..], " -.()/");
    let end = prefix + end;
    let found = &text[..end];
    // Years and amounts have neither a plus nor two separated groups of digits.
    let groups = found.split(|c: char| !c.is_ascii_digit()).filter(|group| !group.is_empty()).count();
    let international = text.starts_with('+') || text.starts_with("(+") || text.starts_with("00");
    let national = digits.first() == Some(&0) && (10..=11).contains(&digits.len());
    let date = found.split(['-', '/', '.']).filter(|part| part.len() == 4 || part.len() <= 2).count() >= 3
        && digits.len() <= 8;
    let shape = international
        || national
        || (groups >= 3 && digits.len() >= 9)
        || groups == 2 && digits.len() == 7
        || found.starts_with('(') && groups >= 2;
    let whole = !text[end..].starts_with(word);
    (whole && shape && !date && (7..=15).contains(&digits.len())).then_some(end)
}

fn name(text: &str, before: Option<char>, names: &Names) -> Option<usize> {
    if before.is_some_and(word) {
        return None;
    }
    names.0.iter().find_map(|name| {
        let mut at = 0;
        for (i, part) in name.iter().enumerate() {
            if i > 0 {
                let space = run(&text[at..], char::is_whitespace);
                if space == 0 {
                    return None;
                }
                at += space;
            }
            let end = at + run(&text[at..], |c| word(c) || part.contains(c));
            if text[at..end].to_lowercase() != *part {
                return None;
            }
            at = end;
        }
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(kind: PersonalData, text: &str) -> String {
        replace(text, kind, &Names::new(&["Ada".into(), "Ada  Lovelace".into(), "O'Neill".into()])).0
    }

    #[test]
    fn addresses_of_mail_are_found_and_handles_are_not() {
        let text = "Write to ada.l+x@mail.example.org, or <bob@example.com>. Not @handle, a@b, or x@y.1";
        let expected = "Write to [EMAIL], or <[EMAIL]>. Not @handle, a@b, or x@y.1";
        assert_eq!(cleaned(PersonalData::Email, text), expected);
        assert_eq!(cleaned(PersonalData::Email, "jörg@müller.de."), "[EMAIL].");
    }

    #[test]
    fn card_numbers_must_satisfy_luhn() {
        let text =
            "Pay 4111 1111 1111 1111 or 5500-0000-0000-0004, not 4111 1111 1111 1112 or 1234567890123.";
        let expected = "Pay [CARD] or [CARD], not 4111 1111 1111 1112 or 1234567890123.";
        assert_eq!(cleaned(PersonalData::Card, text), expected);
        assert!(luhn(&[7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3]) && !luhn(&[7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 4]));
    }

    #[test]
    fn telephone_numbers_are_found_and_years_and_amounts_are_not() {
        for number in [
            "+44 20 7946 0958",
            "(555) 010-9999",
            "555-010-9999",
            "08452810075",
            "+4915112345678",
            "030/123 45 67",
        ] {
            assert_eq!(cleaned(PersonalData::Phone, &format!("Call {number}!")), "Call [PHONE]!", "{number}");
        }
        let text =
            "In 1981 and 2021-11-25, 12.11.1999, $3,000,000.50 for 1000000 people, version 1.2.3, 3 x 12345";
        assert_eq!(cleaned(PersonalData::Phone, text), text);
    }

    #[test]
    fn internet_addresses_are_found_and_times_and_versions_are_not() {
        let text = "From 192.168.0.1: and fe80::1ff:fe23:4567:890a, ::1, not 1.2.3, 256.1.1.1, 12:30:45 or 1.2.3.4.5";
        let expected = "From [IP]: and [IP], [IP], not 1.2.3, 256.1.1.1, 12:30:45 or 1.2.3.4.5";
        assert_eq!(cleaned(PersonalData::Ip, text), expected);
    }

    #[test]
    fn names_are_whole_words_of_any_case() {
        let text = "ADA lovelace met Ada, not Adam; o'neill's Lovelace. ada\nLovelace";
        let expected = "[NAME] met [NAME], not Adam; o'neill's Lovelace. [NAME]";
        assert_eq!(cleaned(PersonalData::Name, text), expected);
        assert_eq!(cleaned(PersonalData::Name, "Mr O'Neill."), "Mr [NAME].");
    }

    #[test]
    fn any_text_comes_back_whole_but_for_what_is_replaced() {
        for text in
            ["", "é@ü.de", "+", "(((", "日本 12345678901234567890", "a@", "::", "1..2", "\u{1F600}+1 "]
        {
            for kind in PersonalData::ALL {
                let (cleaned, count) = replace(text, kind, &Names::new(&[]));
                assert!(count > 0 || cleaned == text, "{text}");
            }
        }
    }
}
