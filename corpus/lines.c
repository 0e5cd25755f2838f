/* Lines of JSON or of text, and paragraphs -> texts in UTF-8 in a row, for lines.py.

   What is not plainly right is left to Python, which knows what to say of it: here it is only marked as odd. No byte
   outside what is given is read or written, and nothing is allocated. */

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the first of eight bytes is found in the lowest bits"
#endif

#define DEEPEST 64 /* objects and arrays in each other */

typedef const uint8_t *bytes;

/* How many bytes the character of UTF-8 has that begins with a byte above 127; 0 where there is none. RFC 3629. */
static inline int character(bytes p, bytes end)
{
    int size = p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;
    if (!size || end - p < size)
        return 0;
    /* what would be written in fewer bytes, halves of UTF-16, and what lies beyond Unicode */
    uint8_t lowest = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80, highest = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < lowest || p[1] > highest)
        return 0;
    for (int i = 2; i < size; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return size;
}

/* Eight bytes -> the highest bit of the first that is a quote, a backslash, a control character or not of ASCII; bits
   of later bytes may be wrong. */
static inline uint64_t special(uint64_t eight)
{
    const uint64_t each = ~0ull / 255;
    return ((eight - each * 0x20) | ((eight ^ each * '"') - each) | ((eight ^ each * '\\') - each) | eight) & each * 0x80;
}

static int32_t four_digits(bytes p, bytes end)
{
    int32_t code = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        uint8_t c = p[i], letter = c | 0x20;
        if (c >= '0' && c <= '9')
            code = code << 4 | (c - '0');
        else if (letter >= 'a' && letter <= 'f')
            code = code << 4 | (letter - 'a' + 10);
        else
            return -1;
    }
    return code;
}

/* What stands after a backslash: its character goes to *out. -> behind it, or NULL */
static bytes escape(bytes p, bytes end, uint8_t **out)
{
    static const uint8_t meant[256] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                       ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};
    uint8_t *to = *out;
    if (p == end)
        return NULL;
    uint8_t name = *p++;
    if (name != 'u') {
        *to++ = meant[name];
        *out = to;
        return meant[name] ? p : NULL;
    }
    int32_t code = four_digits(p, end);
    if (code < 0)
        return NULL;
    p += 4;
    if (code >= 0xD800 && code < 0xE000) { /* two halves of UTF-16 */
        int32_t low = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? four_digits(p + 2, end) : -1;
        if (code >= 0xDC00 || low < 0xDC00 || low >= 0xE000)
            return NULL;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        p += 6;
    }
    if (code < 0x80)
        *to++ = (uint8_t)code;
    else {
        if (code < 0x800)
            *to++ = (uint8_t)(0xC0 | code >> 6);
        else {
            if (code < 0x10000)
                *to++ = (uint8_t)(0xE0 | code >> 12);
            else {
                *to++ = (uint8_t)(0xF0 | code >> 18);
                *to++ = (uint8_t)(0x80 | (code >> 12 & 0x3F));
            }
            *to++ = (uint8_t)(0x80 | (code >> 6 & 0x3F));
        }
        *to++ = (uint8_t)(0x80 | (code & 0x3F));
    }
    *out = to;
    return p;
}

/* A string of JSON, from behind its opening quote. What it says goes to *out, never more bytes than are read.
   -> behind its closing quote, or NULL */
static bytes string(bytes p, bytes end, uint8_t **out)
{
    uint8_t *to = *out;
    for (;;) {
        while (end - p >= 8) {
            uint64_t eight;
            memcpy(&eight, p, 8);
            memcpy(to, &eight, 8);
            uint64_t found = special(eight);
            int plain = found ? __builtin_ctzll(found) >> 3 : 8;
            p += plain;
            to += plain;
            if (found)
                break;
        }
        if (p == end)
            return NULL;
        if (*p == '"') {
            *out = to;
            return p + 1;
        }
        if (*p == '\\') {
            p = escape(p + 1, end, &to);
            if (!p)
                return NULL;
        } else if (*p >= 0x80) {
            int size = character(p, end);
            if (!size)
                return NULL;
            for (int i = 0; i < size; i++)
                *to++ = *p++;
        } else if (*p < 0x20)
            return NULL;
        else
            *to++ = *p++;
    }
}

static inline bytes behind_space(bytes p, bytes end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
        p++;
    return p;
}

static bytes digits(bytes p, bytes end)
{
    bytes first = p;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p > first ? p : NULL;
}

static bytes word(bytes p, bytes end, const char *expected)
{
    size_t size = strlen(expected);
    return (size_t)(end - p) >= size && !memcmp(p, expected, size) ? p + size : NULL;
}

static bytes number(bytes p, bytes end)
{
    if (p < end && *p == '-')
        p++;
    if (p < end && *p == 'I')
        return word(p, end, "Infinity");
    if (p < end && *p == '0')
        p++;
    else
        p = digits(p, end);
    if (p && p < end && *p == '.')
        p = digits(p + 1, end);
    if (p && p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        p = digits(p, end);
    }
    return p;
}

/* Any value, which nobody wants. room: where its strings may be written. -> behind it, or NULL */
static bytes value(bytes p, bytes end, uint8_t *room, int depth)
{
    uint8_t *to = room;
    if (p == end || depth > DEEPEST)
        return NULL;
    switch (*p) {
    case '"':
        return string(p + 1, end, &to);
    case 't':
        return word(p, end, "true");
    case 'f':
        return word(p, end, "false");
    case 'n':
        return word(p, end, "null");
    case 'N':
        return word(p, end, "NaN");
    case '{':
    case '[':
        break;
    default:
        return number(p, end);
    }
    uint8_t opening = *p, closing = opening == '{' ? '}' : ']';
    p = behind_space(p + 1, end);
    if (p < end && *p == closing)
        return p + 1;
    for (;;) {
        if (opening == '{') {
            to = room;
            if (p == end || *p != '"' || !(p = string(p + 1, end, &to)))
                return NULL;
            p = behind_space(p, end);
            if (p == end || *p != ':')
                return NULL;
            p = behind_space(p + 1, end);
        }
        p = value(p, end, room, depth + 1);
        if (!p)
            return NULL;
        p = behind_space(p, end);
        if (p == end)
            return NULL;
        if (*p == closing)
            return p + 1;
        if (*p != ',')
            return NULL;
        p = behind_space(p + 1, end);
    }
}

/* A line of JSON -> what its field of that name says, and how many bytes that is; -1 unless the line is an object in
   which it is a text. out: room for as many bytes as the line has */
static int64_t field(bytes p, bytes end, bytes name, int64_t name_size, uint8_t *out)
{
    uint8_t *to = out;
    int is_found = 0;
    p = behind_space(p, end);
    if (p == end || *p != '{')
        return -1;
    do {
        uint8_t *key = to;
        p = behind_space(p + 1, end);
        if (p == end || *p != '"' || !(p = string(p + 1, end, &key)))
            return -1;
        int is_wanted = key - to == name_size && !memcmp(to, name, (size_t)name_size);
        p = behind_space(p, end);
        if (p == end || *p != ':')
            return -1;
        p = behind_space(p + 1, end);
        if (is_wanted) { /* of several fields of one name `json` takes the last */
            to = out;
            is_found = 1;
            if (p == end || *p != '"' || !(p = string(p + 1, end, &to)))
                return -1;
        } else if (!(p = value(p, end, to, 0)))
            return -1;
        p = behind_space(p, end);
    } while (p < end && *p == ',');
    if (p == end || *p != '}' || behind_space(p + 1, end) != end || !is_found)
        return -1;
    return to - out;
}

static int is_utf8(bytes p, bytes end)
{
    while (p < end) {
        uint64_t eight;
        if (end - p >= 8) {
            memcpy(&eight, p, 8);
            if (!(eight & ~0ull / 255 * 0x80)) {
                p += 8;
                continue;
            }
        }
        int size = *p < 0x80 ? 1 : character(p, end);
        if (!size)
            return 0;
        p += size;
    }
    return 1;
}

static int64_t plain(bytes p, bytes end, uint8_t *out)
{
    if (!is_utf8(p, end))
        return -1;
    memcpy(out, p, (size_t)(end - p));
    return end - p;
}

#define BLOCK 240 /* so that a count fits into a byte, of which a processor adds many at once */

/* How many lines there are, an open one at the end included. */
int64_t lines(bytes data, int64_t size)
{
    int64_t number = size && data[size - 1] != '\n';
    for (int64_t i = 0; i < size; i += BLOCK) {
        int64_t stop = size - i < BLOCK ? size : i + BLOCK;
        uint8_t ends = 0;
        for (int64_t k = i; k < stop; k++)
            ends += data[k] == '\n';
        number += ends;
    }
    return number;
}

/* Lines -> their texts, a separator after each. out: room for `size` bytes and the separators. sizes, is_odd: for each
   line; what is odd is an empty text. longest: bytes of a line without its end. name: of a field, where the lines are of
   JSON; NULL: what they say is text. */
void texts(bytes data, int64_t size, uint8_t *out, int64_t *sizes, uint8_t *is_odd, int64_t longest, bytes separator,
           int64_t separator_size, bytes name, int64_t name_size)
{
    uint8_t *to = out;
    for (bytes p = data, last = data + size; p < last;) {
        bytes newline = memchr(p, '\n', (size_t)(last - p)), end = newline ? newline : last;
        bytes next = newline ? newline + 1 : last;
        if (end > p && end[-1] == '\r')
            end--;
        int64_t found = end - p > longest ? -1 : name ? field(p, end, name, name_size, to) : plain(p, end, to);
        *is_odd++ = found < 0;
        *sizes++ = found < 0 ? 0 : found;
        to += found < 0 ? 0 : found;
        memcpy(to, separator, (size_t)separator_size);
        to += separator_size;
        p = next;
    }
}

/* Lines -> what stands between blank ones, a text each, in the same way; the ends of its lines are newlines alone. out:
   NULL, if they are only to be counted. -> how many there are */
int64_t paragraphs(bytes data, int64_t size, uint8_t *out, int64_t *sizes, uint8_t *is_odd, int64_t longest,
                   bytes separator, int64_t separator_size)
{
    int64_t number = 0;
    uint8_t *to = out, *begin = NULL;
    int is_open = 0;
    for (bytes p = data, last = data + size; p < last || is_open;) {
        bytes newline = p < last ? memchr(p, '\n', (size_t)(last - p)) : NULL, end = newline ? newline : last;
        bytes next = newline ? newline + 1 : last, first = p;
        if (end > p && end[-1] == '\r')
            end--;
        while (first < end && (*first == ' ' || (*first >= '\t' && *first <= '\r')))
            first++;
        int is_blank = first == end && end - p <= longest; /* of what is too long nobody may know what it says */
        number += !is_blank && !is_open;
        if (out && !is_blank) {
            if (is_open)
                *to++ = '\n';
            else
                begin = to;
            memcpy(to, p, (size_t)(end - p));
            to += end - p;
        } else if (out && is_open) {
            int is_text = to - begin <= longest && is_utf8(begin, to);
            is_odd[number - 1] = (uint8_t)!is_text;
            sizes[number - 1] = is_text ? to - begin : 0;
            to = begin + sizes[number - 1];
            memcpy(to, separator, (size_t)separator_size);
            to += separator_size;
        }
        is_open = !is_blank;
        p = next;
    }
    return number;
}
