//! The code of a Rust file without what only looks like code.

/// `source` with comments, strings and character literals blanked out; every line keeps its number.
pub(crate) fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        match end {
            Some(end) => {
                out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
                at = end;
            }
            None => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `None` when none starts there.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let next = |i: usize| chars.get(at + i).copied();
    let in_word = at > 0 && is_word(chars[at - 1]);
    match chars[at] {
        '/' if next(1) == Some('/') => Some(find(chars, at, |i| chars[i] == '\n')),
        '/' if next(1) == Some('*') => Some(block_comment_end(chars, at)),
        '"' => Some(string_end(chars, at + 1)),
        'r' if !in_word || matches!(chars[at - 1], 'b' | 'c') => raw_string_end(chars, at + 1),
        // A lifetime is a quote and a word without a closing quote.
        '\'' if next(1) == Some('\\') => Some(find(chars, at + 3, |i| chars[i] == '\'') + 1),
        '\'' if next(2) == Some('\'') => Some(at + 3),
        _ => None,
    }
    .map(|end| end.min(chars.len()))
}

fn find(chars: &[char], from: usize, accept: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|&i| accept(i)).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The end of a raw string whose hashes or quote start at `at`; `None` for a raw identifier or a plain word.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
    if chars.get(at + hashes) != Some(&'"') {
        return None;
    }
    let closes =
        |i: usize| chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    Some(find(chars, at + hashes + 1, closes) + 1 + hashes)
}

/// Where `word` stands as a whole word in `code`: byte offsets.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The line, from 1, of a byte offset.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        for (source, want) in [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("a\"unsafe")"#, "f(           )"),
            ("f(r#\"a\"b\"#, 1)", "f(        , 1)"),
            ("br\"x\" y", "b     y"),
            ("for r in var", "for r in var"),
            ("r#type", "r#type"),
            ("&'a str, '\\'', '\"', 'x'", "&'a str,     ,    ,    "),
            ("'\\u{1F600}'x", "           x"),
            ("\"open", "     "),
        ] {
            assert_eq!(code_of(source), want, "{source}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("unsafe unsafe_code an_unsafe unsafe{", "unsafe").collect::<Vec<_>>(), [0, 29]);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
