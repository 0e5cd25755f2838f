/* Words and lines of texts in UTF-8, for measuring.py. */

#include <stdint.h>

typedef const uint8_t *bytes;

#define BLOCK 240 /* so that counts fit into a byte, of which a processor adds many at once */

static inline uint8_t is_space(uint8_t c)
{
    return (uint8_t)((uint8_t)(c - 9) <= 4) | (uint8_t)((uint8_t)(c - 28) <= 4);
}

/* Whether a character beyond ASCII that str.split() takes for space begins here: U+0085, 00A0, 1680, 2000 to 200A, 2028,
   2029, 202F, 205F or 3000. Two bytes beyond must be there to be read. */
static inline uint8_t is_wide_space(bytes p)
{
    uint8_t a = p[0], b = p[1], c = p[2];
    return (uint8_t)((a == 0xC2) & ((b == 0x85) | (b == 0xA0))) | (uint8_t)((a == 0xE1) & (b == 0x9A) & (c == 0x80)) |
           (uint8_t)((a == 0xE2) & (b == 0x80) & (((uint8_t)(c - 0x80) <= 0x0A) | ((c | 1) == 0xA9) | (c == 0xAF))) |
           (uint8_t)((a == 0xE2) & (b == 0x81) & (c == 0x9F)) | (uint8_t)((a == 0xE3) & (b == 0x80) & (c == 0x80));
}

/* Words that begin in a block, where all spaces are of ASCII. before: whether a space stands before it */
static int64_t words_of(bytes p, int size, uint8_t before)
{
    uint8_t begun = before & (is_space(p[0]) ^ 1);
    for (int k = 1; k < size; k++)
        begun += is_space(p[k - 1]) & (is_space(p[k]) ^ 1);
    return begun;
}

/* Texts, `gap` bytes after each (two at least) -> of each its words, as str.split() finds them, and its lines, an open
   one at the end included: counts[2 * i] and counts[2 * i + 1] */
void count(bytes p, const int64_t *sizes, int64_t number, int64_t gap, int64_t *counts)
{
    for (int64_t i = 0; i < number; i++, p += gap) {
        int64_t words = 0, lines = !sizes[i] || p[sizes[i] - 1] != '\n';
        uint8_t before = 1; /* whether what stands before is a space */
        for (bytes end = p + sizes[i]; p < end;) {
            int size = end - p < BLOCK ? (int)(end - p) : BLOCK;
            uint8_t beyond = 0, wide = 0, newlines = 0;
            for (int k = 0; k < size; k++)
                newlines += p[k] == '\n';
            lines += newlines;
            for (int k = 0; k < size; k++)
                beyond |= p[k];
            if (beyond >= 0x80)
                for (int k = 0; k < size; k++)
                    wide |= is_wide_space(p + k);
            if (!wide) {
                words += words_of(p, size, before);
                p += size;
                before = is_space(p[-1]);
                continue;
            }
            for (bytes stop = p + size; p < stop;) {
                uint8_t is_wide = is_wide_space(p), space = is_wide | is_space(*p);
                words += before & (space ^ 1);
                before = space;
                p += !is_wide ? 1 : *p == 0xC2 ? 2 : 3;
            }
        }
        counts[2 * i] = words;
        counts[2 * i + 1] = lines;
    }
}
