//! Text made safe for an HTML page.

/// The text with everything that HTML could take for markup replaced, and with control and direction-changing characters
/// shown as `�`, so that a hostile name can neither open a tag nor reorder the words around it. Line breaks stay.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(visible(c)),
        }
    }
    out
}

/// The text cut to `limit` characters for a plot's label, unescaped: the plotting backend escapes what it writes.
pub(crate) fn label(text: &str, limit: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { visible(c) }).collect();
    if clean.chars().count() <= limit {
        return clean;
    }
    let mut cut: String = clean.chars().take(limit.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn visible(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => '\u{FFFD}',
        c if c.is_control() => '\u{FFFD}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_invisible_characters_lose_their_power() {
        let cases = [
            ("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
            ("a\" onload=\"b", "a&quot; onload=&quot;b"),
            ("&lt;", "&amp;lt;"),
            ("a\u{0}b\u{202E}c\n", "a\u{FFFD}b\u{FFFD}c\n"),
            ("盆景 é", "盆景 é"),
        ];
        for (text, want) in cases {
            assert_eq!(escape(text), want);
        }
    }

    #[test]
    fn labels_are_cut_by_characters() {
        assert_eq!(label("pruned50", 8), "pruned50");
        assert_eq!(label("盆景盆景盆景", 4), "盆景盆…");
        assert_eq!(label("a\nb\u{7}", 9), "a b\u{FFFD}");
    }
}
