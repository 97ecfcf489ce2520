//! Unrolling by text: drivers keep an array in registers only if every index into it is a constant, and not all of them unroll nested loops.

/// Replaces each loop of the form `for (var i = 0i; i < END; i++) { // unroll` (or `i += STEPi`) by its iterations, each a block in
/// which `i` is a literal. `END` is a literal or one of `constants`. Loops of another form are left as they are, which changes
/// speed alone.
pub(crate) fn unroll(text: &str, constants: &[(&str, i64)]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(4 * text.len());
    expand(&mut out, &lines, constants);
    out
}

fn expand(out: &mut String, lines: &[&str], constants: &[(&str, i64)]) {
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        let Some((name, end, step)) = parse(line, constants) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        // The body ends where the brace that the line opened is closed.
        let start = at;
        let mut depth = 1;
        while at < lines.len() && depth > 0 {
            let code = lines[at].split("//").next().unwrap_or_default();
            depth += code.matches('{').count() as i64 - code.matches('}').count() as i64;
            at += 1;
        }
        let body = &lines[start..at.saturating_sub(1)];
        for value in (0..end).step_by(step) {
            let literal = format!("{value}i");
            let replaced: Vec<String> = body.iter().map(|l| substitute(l, name, &literal)).collect();
            let replaced: Vec<&str> = replaced.iter().map(String::as_str).collect();
            out.push_str("{\n");
            expand(out, &replaced, constants);
            out.push_str("}\n");
        }
    }
}

/// Name, end and step of a loop to unroll.
fn parse<'l>(line: &'l str, constants: &[(&str, i64)]) -> Option<(&'l str, i64, usize)> {
    let rest =
        line.trim().strip_suffix("{ // unroll")?.trim().strip_prefix("for (var ")?.strip_suffix(')')?;
    let mut parts = rest.split(';').map(str::trim);
    let (init, condition, update) = (parts.next()?, parts.next()?, parts.next()?);
    let name = init.strip_suffix("= 0i")?.trim();
    let end = condition.strip_prefix(name)?.trim().strip_prefix('<')?.trim();
    let end = match constants.iter().find(|(n, _)| *n == end) {
        Some(&(_, value)) => value,
        None => end.strip_suffix('i')?.parse().ok()?,
    };
    let update = update.strip_prefix(name)?.trim();
    let step = match update {
        "++" => 1,
        _ => update.strip_prefix("+=")?.trim().strip_suffix('i')?.parse().ok().filter(|&s: &usize| s > 0)?,
    };
    Some((name, end, step))
}

/// Replaces the identifier `name` wherever it stands alone.
fn substitute(line: &str, name: &str, value: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut word = String::new();
    let flush = |out: &mut String, word: &mut String| {
        out.push_str(if word == name { value } else { word });
        word.clear();
    };
    for c in line.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
        } else {
            flush(&mut out, &mut word);
            out.push(c);
        }
    }
    flush(&mut out, &mut word);
    out
}

#[cfg(test)]
mod tests {
    use super::unroll;

    #[test]
    fn marked_loops_become_blocks_with_literals() {
        let text =
            "for (var i = 0i; i < N; i++) { // unroll\nx[i] = ii;\n}\nfor (var k = 0i; k < 9i; k++) {\n}";
        let want = "{\nx[0i] = ii;\n}\n{\nx[1i] = ii;\n}\nfor (var k = 0i; k < 9i; k++) {\n}\n";
        assert_eq!(unroll(text, &[("N", 2)]), want);
    }

    #[test]
    fn nested_loops_and_steps_unroll_inside_out() {
        let text = "for (var r = 0i; r < 16i; r += 8i) { // unroll\nfor (var q = 0i; q < 2i; q++) { // unroll\ns[r][q];\n}\n}";
        let flat: String = unroll(text, &[]).split_whitespace().collect();
        assert_eq!(flat, "{{s[0i][0i];}{s[0i][1i];}}{{s[8i][0i];}{s[8i][1i];}}");
    }
}
