//! Reads tokens off one line.

/// A position in a line. Every reader skips spaces first.
pub(super) struct Cursor<'a> {
    rest: &'a str,
    depth: usize,
    terms: usize,
}

/// What is wrong at the cursor; the caller adds the line number.
pub(super) type Why = String;

/// Most terms that the product of all dims on a line may have, so that inference on them is quick.
const TERMS: usize = 1 << 14;

/// Deepest nesting of expressions and lists.
const DEPTH: usize = 32;

impl<'a> Cursor<'a> {
    pub(super) fn new(line: &'a str) -> Cursor<'a> {
        Cursor { rest: line, depth: 0, terms: 1 }
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), Why> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}` at `{}`", self.ahead())) }
    }

    pub(super) fn end(&mut self) -> Result<(), Why> {
        self.skip();
        if self.rest.is_empty() { Ok(()) } else { Err(format!("unexpected `{}`", self.ahead())) }
    }

    pub(super) fn starts_with(&mut self, token: &str) -> bool {
        self.skip();
        self.rest.starts_with(token)
    }

    /// Letters, digits, `_` and `.`; at least one.
    pub(super) fn word(&mut self) -> Result<&'a str, Why> {
        self.take(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
            .ok_or_else(|| format!("expected a word at `{}`", self.ahead()))
    }

    /// What a number is written with.
    pub(super) fn number(&mut self) -> Result<&'a str, Why> {
        self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
            .ok_or_else(|| format!("expected a number at `{}`", self.ahead()))
    }

    pub(super) fn parse<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, Why> {
        let text = self.number()?;
        text.parse().map_err(|_| format!("`{text}` is not {what}"))
    }

    /// A quoted string with the escapes that Rust's `{:?}` writes.
    pub(super) fn string(&mut self) -> Result<String, Why> {
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[i + 1..];
                    return Ok(out);
                }
                '\\' => out.push(match chars.next().map(|(_, e)| e) {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('0') => '\0',
                    Some(c @ ('"' | '\\' | '\'')) => c,
                    Some('u') => {
                        let digits: String = chars
                            .by_ref()
                            .map(|(_, d)| d)
                            .skip_while(|&d| d == '{')
                            .take_while(|&d| d != '}')
                            .take(8)
                            .collect();
                        u32::from_str_radix(&digits, 16)
                            .ok()
                            .and_then(char::from_u32)
                            .ok_or_else(|| format!("`\\u{{{digits}}}` is no character"))?
                    }
                    other => return Err(format!("unknown escape {other:?}")),
                }),
                c => out.push(c),
            }
        }
        Err("the string does not end".into())
    }

    /// Items between `open` and `close`, separated by commas.
    pub(super) fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, Why>,
    ) -> Result<Vec<T>, Why> {
        self.expect(open)?;
        let mut out = Vec::new();
        if self.eat(close) {
            return Ok(out);
        }
        loop {
            out.push(self.nested(&mut item)?);
            if self.eat(close) {
                return Ok(out);
            }
            self.expect(",")?;
        }
    }

    /// Runs `read` one level deeper; an error when that is too deep.
    pub(super) fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Why>) -> Result<T, Why> {
        if self.depth == DEPTH {
            return Err(format!("nested more than {DEPTH} deep"));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// Counts a dim of this many terms; an error when those of the line are too complicated.
    pub(super) fn spend_terms(&mut self, terms: usize) -> Result<(), Why> {
        self.terms = self.terms.saturating_mul(terms.max(1));
        if self.terms <= TERMS { Ok(()) } else { Err("the dims of this line are too complicated".into()) }
    }

    fn take(&mut self, accepts: impl Fn(char) -> bool) -> Option<&'a str> {
        self.skip();
        let end = self.rest.find(|c| !accepts(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    fn ahead(&self) -> String {
        self.rest.chars().take(24).collect()
    }
}
