//! Small pictures as PNG files: eight bits a pixel that choose from a palette, without compression.

/// A picture of `width` pixels a row, row by row from the top; each pixel chooses a colour of `palette` (red, green,
/// blue, opacity; at most 256). Empty where there are no pixels.
///
/// PNG, second edition (ISO/IEC 15948): signature, IHDR, PLTE, tRNS, IDAT, IEND; the data are stored blocks of zlib
/// (RFC 1950, 1951).
pub(super) fn encode(width: usize, pixels: &[u8], palette: &[[u8; 4]]) -> Vec<u8> {
    let height = pixels.len().checked_div(width).unwrap_or(0);
    if height == 0 {
        return Vec::new();
    }
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend((width as u32).to_be_bytes());
    header.extend((height as u32).to_be_bytes());
    // 8 bits, palette, deflate, the standard filters, not interlaced.
    header.extend([8, 3, 0, 0, 0]);
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"PLTE", &palette.iter().flat_map(|colour| colour[..3].to_vec()).collect::<Vec<u8>>());
    chunk(&mut png, b"tRNS", &palette.iter().map(|colour| colour[3]).collect::<Vec<u8>>());
    // Before each row, the filter: none.
    let rows = pixels.chunks_exact(width).flat_map(|row| std::iter::once(0).chain(row.iter().copied()));
    chunk(&mut png, b"IDAT", &stored(&rows.collect::<Vec<u8>>()));
    chunk(&mut png, b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    png.extend((data.len() as u32).to_be_bytes());
    let from = png.len();
    png.extend(kind);
    png.extend(data);
    let check = crc32(&png[from..]);
    png.extend(check.to_be_bytes());
}

/// A zlib stream of stored blocks.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = data.chunks(0xffff);
    let last = blocks.len().saturating_sub(1);
    for (index, block) in blocks.enumerate() {
        let length = block.len() as u16;
        stream.push(u8::from(index == last));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(data).to_be_bytes());
    stream
}

/// CRC-32 (reflected polynomial 0xedb88320).
fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !data.iter().fold(u32::MAX, |crc, byte| TABLE[(crc as u8 ^ byte) as usize] ^ (crc >> 8))
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn adler32(data: &[u8]) -> u32 {
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (a + b) % 65_521)
    });
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }

    #[test]
    fn a_picture_has_its_chunks_and_all_its_pixels() {
        // More than one stored block.
        let pixels: Vec<u8> = (0..300 * 250).map(|i| (i % 3) as u8).collect();
        let png = encode(300, &pixels, &[[0, 0, 0, 255], [255, 0, 0, 255], [0, 0, 255, 0]]);
        let mut rest = &png[8..];
        let mut kinds = Vec::new();
        let mut data = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[..4].try_into().expect("4 bytes")) as usize;
            let (kind, body) = (&rest[4..8], &rest[8..8 + length]);
            assert_eq!(crc32(&rest[4..8 + length]).to_be_bytes(), rest[8 + length..12 + length]);
            kinds.push(String::from_utf8(kind.to_vec()).expect("letters"));
            if kind == b"IDAT" {
                data = body.to_vec();
            }
            rest = &rest[12 + length..];
        }
        assert_eq!(kinds, ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"]);
        let (mut blocks, mut found) = (&data[2..data.len() - 4], Vec::<u8>::new());
        while let [_, a, b, _, _, rest @ ..] = blocks {
            let length = usize::from(u16::from_le_bytes([*a, *b]));
            found.extend(&rest[..length]);
            blocks = &rest[length..];
        }
        assert_eq!(found.len(), 301 * 250);
        assert!(found.chunks(301).zip(pixels.chunks(300)).all(|(row, pixels)| row[0] == 0 && row[1..] == *pixels));
        assert!(encode(0, &[], &[]).is_empty());
    }
}
