//! A slow model of header parsing: applies the rules of Python's `email` package one by one, each with a copy of the
//! text. Shares no code with [`pyzor_wire`].

/// A datagram as parsed by the model.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelMessage {
    /// Names and values, values as received.
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The text covered by a signature.
    pub(crate) signed: Vec<u8>,
}

impl ModelMessage {
    /// Parses a datagram.
    pub(crate) fn parse(datagram: &[u8]) -> Self {
        let mut lines = split(&repaired(datagram));
        let mut headers: Vec<Vec<u8>> = Vec::new();
        let mut body: Vec<Vec<u8>> = Vec::new();
        while !lines.is_empty() {
            let line = lines.remove(0);
            if is_header(&line) {
                headers.push(line);
                continue;
            }
            // An empty line ends the headers and belongs to neither part.
            if !without_end(&line).is_empty() {
                body.push(line);
            }
            break;
        }
        body.append(&mut lines);
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut is_open = false;
        let last = headers.len().saturating_sub(1);
        for (at, line) in headers.into_iter().enumerate() {
            if line[0] == b' ' || line[0] == b'\t' {
                if is_open && let Some((_, value)) = fields.last_mut() {
                    value.extend(line);
                }
                continue;
            }
            is_open = false;
            if line.starts_with(b"From ") {
                if at == last && at > 0 {
                    body.insert(0, line);
                }
                continue;
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':').filter(|at| *at > 0) else {
                continue;
            };
            let value: Vec<u8> =
                line[colon + 1..].iter().skip_while(|byte| b" \t".contains(byte)).copied().collect();
            fields.push((line[..colon].to_vec(), value));
            is_open = true;
        }
        for (_, value) in &mut fields {
            *value = without_end(value).to_vec();
        }
        let signed = signed(&fields, &body);
        Self { fields, signed }
    }

    /// The value of the first field with this name.
    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The values of all fields with this name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let fields = self.fields.iter();
        fields.filter(move |(given, _)| same(given, name)).map(|(_, value)| value.as_slice())
    }
}

fn same(given: &[u8], name: &str) -> bool {
    given.to_ascii_lowercase() == name.to_ascii_lowercase().into_bytes()
}

fn repaired(datagram: &[u8]) -> Vec<u8> {
    let mut text = datagram.to_vec();
    while text.last() == Some(&b'\n') {
        text.pop();
    }
    let mut out = Vec::new();
    while !text.is_empty() {
        let is_pair = text.starts_with(b"\n\n");
        out.push(text[0]);
        text.drain(..if is_pair { 2 } else { 1 });
    }
    out
}

/// Splits text into lines that include their line ends.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    for (at, byte) in text.iter().enumerate() {
        if let Some(line) = lines.last_mut() {
            line.push(*byte);
        }
        let is_end = *byte == b'\n' || *byte == b'\r' && text.get(at + 1) != Some(&b'\n');
        if is_end {
            lines.push(Vec::new());
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

fn is_header(line: &[u8]) -> bool {
    if line.starts_with(b"From ") || line.starts_with(b" ") || line.starts_with(b"\t") {
        return true;
    }
    let name: Vec<u8> = line.iter().copied().take_while(|byte| *byte != b':').collect();
    name.len() < line.len() && name.iter().all(u8::is_ascii_graphic)
}

fn without_end(line: &[u8]) -> &[u8] {
    // Only one line end, that of the last line of a value.
    match line {
        [whole @ .., b'\r', b'\n'] | [whole @ .., b'\n' | b'\r'] => whole,
        whole => whole,
    }
}

fn signed(fields: &[(Vec<u8>, Vec<u8>)], body: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| !same(name, "Sig")) {
        text.extend_from_slice(name);
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend(body.concat());
    let plain = |at: usize| match text[at] {
        b'\r' => Some(b'\n'),
        b'\n' if at > 0 && text[at - 1] == b'\r' => None,
        byte => Some(byte),
    };
    let mut text: Vec<u8> = (0..text.len()).filter_map(plain).collect();
    while text.last().is_some_and(|byte| b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f".contains(byte)) {
        text.pop();
    }
    text
}
