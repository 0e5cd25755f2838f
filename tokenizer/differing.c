/* Texts in UTF-8 -> which of them hold one of some code points, for differing.py. */

#include <stdint.h>
#include <string.h>

typedef const uint8_t *bytes;

#define BLOCK 32

static inline int is_ascii(bytes p, bytes end)
{
    uint64_t some[BLOCK / 8];
    if (end - p < BLOCK)
        return 0;
    memcpy(some, p, BLOCK);
    return !((some[0] | some[1] | some[2] | some[3]) & ~0ull / 255 * 0x80);
}

/* Texts, `gap` bytes after each. table: for each code point whether it is one of them; none is of ASCII.
   holds: for each text -> how many there are that hold one */
int64_t holding(bytes p, const int64_t *sizes, int64_t number, int64_t gap, const uint8_t *table, uint8_t *holds)
{
    int64_t found = 0;
    for (int64_t i = 0; i < number; i++) {
        bytes end = p + sizes[i];
        uint8_t one = 0;
        while (p < end && !one) {
            if (is_ascii(p, end)) {
                p += BLOCK;
            } else if (*p < 0x80)
                p++;
            else if (*p < 0xE0) {
                one = table[(p[0] & 0x1F) << 6 | (p[1] & 0x3F)];
                p += 2;
            } else if (*p < 0xF0) {
                one = table[(p[0] & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F)];
                p += 3;
            } else {
                one = table[(p[0] & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F)];
                p += 4;
            }
        }
        holds[i] = one;
        found += one;
        p = end + gap;
    }
    return found;
}
