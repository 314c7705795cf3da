/* Thompson's construction and simulation (Cox, "Regular Expression Matching: the Virtual Machine
 * Approach"). Jumps are relative, so that a piece of program can be moved and copied. */
#include "plugin/regex.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum op { OP_SET, OP_SPLIT, OP_JUMP, OP_BEGIN, OP_END, OP_MATCH };

struct inst {
	enum op op;
	int a, b;	 /* SPLIT: both; JUMP: a */
	uint32_t set[8]; /* SET: the bytes that match */
};

struct cairn_regex {
	int n;
	struct inst code[];
};

struct parser {
	const char *pattern, *at;
	struct cairn_regex *re;
	int depth;
	struct cairn_err *err;
};

static enum cairn_code bad(struct parser *p, const char *what)
{
	return cairn_err_set(p->err, CAIRN_INVALID_ARGUMENT,
			     "regular expression \"%.200s\", at character %d: %s", p->pattern,
			     (int)(p->at - p->pattern) + 1, what);
}

/* Make room for an instruction at index at; what follows moves, with the jumps inside it. */
static enum cairn_code insert(struct parser *p, int at, struct inst inst)
{
	struct cairn_regex *re = p->re;
	if (re->n == CAIRN_REGEX_PROGRAM_MAX) return bad(p, "too long or too many repetitions");
	memmove(re->code + at + 1, re->code + at, (size_t)(re->n - at) * sizeof(re->code[0]));
	re->code[at] = inst;
	re->n++;
	return CAIRN_OK;
}

static enum cairn_code append(struct parser *p, struct inst inst)
{
	return insert(p, p->re->n, inst);
}

static void set_add(uint32_t *set, unsigned byte)
{
	set[byte / 32] |= UINT32_C(1) << (byte % 32);
}

static bool set_has(const uint32_t *set, unsigned char byte)
{
	return (set[byte / 32] >> (byte % 32)) & 1;
}

static void set_add_range(uint32_t *set, unsigned from, unsigned to)
{
	for (unsigned c = from; c <= to; c++) set_add(set, c);
}

/* \d and its like; false if c is not one of them. */
static bool set_add_class(uint32_t *set, char c)
{
	uint32_t own[8] = {0};
	switch (c) {
	case 'd':
	case 'D':
		set_add_range(own, '0', '9');
		break;
	case 'w':
	case 'W':
		set_add_range(own, '0', '9');
		set_add_range(own, 'A', 'Z');
		set_add_range(own, 'a', 'z');
		set_add(own, '_');
		break;
	case 's':
	case 'S':
		for (const char *s = "\t\n\f\r "; *s != '\0'; s++) set_add(own, (unsigned char)*s);
		break;
	default:
		return false;
	}
	bool negated = c >= 'A' && c <= 'Z';
	for (int i = 0; i < 8; i++) set[i] |= negated ? ~own[i] : own[i];
	return true;
}

/* The byte that the escape \c stands for; -1: none. */
static int escaped_byte(char c)
{
	static const char names[] = "tnrfv", bytes[] = "\t\n\r\f\v";
	const char *name = c != '\0' ? strchr(names, c) : NULL;
	if (name != NULL) return bytes[name - names];
	bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
	return c == '\0' || alnum ? -1 : (unsigned char)c;
}

/* One end of a range, or a single member: the byte, or -1 after a class such as \d. */
static enum cairn_code class_member(struct parser *p, uint32_t *set, int *ret)
{
	*ret = (unsigned char)*p->at++;
	if (*ret != '\\') return CAIRN_OK;
	char c = *p->at;
	if (set_add_class(set, c)) {
		*ret = -1;
	} else if ((*ret = escaped_byte(c)) < 0) {
		return bad(p, "an escape that is not known");
	}
	p->at++;
	return CAIRN_OK;
}

static enum cairn_code parse_class(struct parser *p, uint32_t *set)
{
	bool negated = *p->at == '^';
	if (negated) p->at++;
	bool first = true;
	for (; *p->at != ']' || first; first = false) {
		int from = 0, to = 0;
		if (*p->at == '\0') return bad(p, "a [ without its ]");
		if (p->at[0] == '[' && p->at[1] == ':') return bad(p, "[:names:] are not known");
		enum cairn_code rc = class_member(p, set, &from);
		if (rc) return rc;
		to = from;
		if (from >= 0 && p->at[0] == '-' && p->at[1] != ']' && p->at[1] != '\0') {
			p->at++;
			rc = class_member(p, set, &to);
			if (rc) return rc;
			if (to < from) return bad(p, "a range whose end is before its start");
		}
		if (from >= 0) set_add_range(set, (unsigned)from, (unsigned)to);
	}
	p->at++;
	for (int i = 0; i < 8 && negated; i++) set[i] = ~set[i];
	return CAIRN_OK;
}

static enum cairn_code parse_alternatives(struct parser *p);

static enum cairn_code parse_group(struct parser *p)
{
	if (p->depth == CAIRN_REGEX_DEPTH_MAX) return bad(p, "groups nest too deep");
	if (p->at[0] == '?') {
		if (p->at[1] != ':') return bad(p, "flags and named groups are not known");
		p->at += 2;
	}
	p->depth++;
	enum cairn_code rc = parse_alternatives(p);
	p->depth--;
	if (rc) return rc;
	if (*p->at != ')') return bad(p, "a ( without its )");
	p->at++;
	return CAIRN_OK;
}

static bool parse_counts(struct parser *p, int *ret_min, int *ret_max);

static enum cairn_code parse_atom(struct parser *p)
{
	struct inst inst = {.op = OP_SET};
	int min, max;
	if (parse_counts(p, &min, &max)) return bad(p, "nothing to repeat");
	char c = *p->at++;
	enum cairn_code rc = CAIRN_OK;
	switch (c) {
	case '(':
		return parse_group(p);
	case '^':
		return append(p, (struct inst){.op = OP_BEGIN});
	case '$':
		return append(p, (struct inst){.op = OP_END});
	case '.':
		set_add_range(inst.set, 0, 255);
		inst.set['\n' / 32] &= ~(UINT32_C(1) << '\n' % 32);
		break;
	case '[':
		rc = parse_class(p, inst.set);
		break;
	case '*':
	case '+':
	case '?':
		p->at--;
		return bad(p, "nothing to repeat");
	case '\\':
		if (!set_add_class(inst.set, *p->at)) {
			int byte = escaped_byte(*p->at);
			if (byte < 0) return bad(p, "an escape that is not known");
			set_add(inst.set, (unsigned)byte);
		}
		p->at++;
		break;
	default:
		set_add(inst.set, (unsigned char)c);
	}
	return rc ? rc : append(p, inst);
}

/* ---- repetition of the atom that is the program's tail from start on --------------------------*/

static enum cairn_code repeat_star(struct parser *p, int start)
{
	int len = p->re->n - start;
	enum cairn_code rc = insert(p, start, (struct inst){.op = OP_SPLIT, .a = 1, .b = len + 2});
	return rc ? rc : append(p, (struct inst){.op = OP_JUMP, .a = -(len + 1)});
}

static enum cairn_code repeat_maybe(struct parser *p, int start)
{
	int len = p->re->n - start;
	return insert(p, start, (struct inst){.op = OP_SPLIT, .a = 1, .b = len + 1});
}

static enum cairn_code copy_tail(struct parser *p, const struct inst *atom, int len)
{
	enum cairn_code rc = CAIRN_OK;
	for (int i = 0; i < len && rc == CAIRN_OK; i++) rc = append(p, atom[i]);
	return rc;
}

/* max -1: without end. */
static enum cairn_code repeat_counted(struct parser *p, int start, int min, int max)
{
	int len = p->re->n - start;
	size_t bytes = (size_t)len * sizeof(struct inst);
	struct inst *atom = malloc(bytes + 1);
	if (atom == NULL) abort();
	memcpy(atom, p->re->code + start, bytes);
	p->re->n = start;
	enum cairn_code rc = CAIRN_OK;
	for (int i = 0; i < min && rc == CAIRN_OK; i++) rc = copy_tail(p, atom, len);
	int copies = max < 0 ? 1 : max - min;
	for (int i = 0; i < copies && rc == CAIRN_OK; i++) {
		int at = p->re->n;
		rc = copy_tail(p, atom, len);
		if (rc == CAIRN_OK) rc = max < 0 ? repeat_star(p, at) : repeat_maybe(p, at);
	}
	free(atom);
	return rc;
}

/* "{n}", "{n,}", "{n,m}"; anything else after { is a plain character, as in RE2. */
static bool parse_counts(struct parser *p, int *ret_min, int *ret_max)
{
	if (*p->at != '{') return false;
	const char *s = p->at + 1;
	int n[2] = {-1, -1}, part = 0;
	for (; *s != '}'; s++) {
		if (*s >= '0' && *s <= '9') {
			n[part] = (n[part] < 0 ? 0 : n[part] * 10) + (*s - '0');
			if (n[part] > 1000) n[part] = 1000; /* is refused later, for its length */
		} else if (*s == ',' && part == 0) {
			part = 1;
		} else {
			return false;
		}
	}
	if (n[0] < 0) return false;
	*ret_min = n[0];
	*ret_max = part == 0 ? n[0] : n[1];
	p->at = s + 1;
	return true;
}

static enum cairn_code parse_repetition(struct parser *p, int start)
{
	enum cairn_code rc = CAIRN_OK;
	int min = 0, max = 0;
	if (*p->at == '*' || *p->at == '+' || *p->at == '?') {
		min = *p->at == '+';
		max = *p->at == '?' ? 1 : -1;
		p->at++;
	} else if (!parse_counts(p, &min, &max)) {
		return CAIRN_OK;
	}
	if (max >= 0 && max < min) return bad(p, "a repetition whose end is before its start");
	rc = repeat_counted(p, start, min, max);
	if (rc == CAIRN_OK && *p->at == '?') p->at++;
	if (rc == CAIRN_OK && *p->at != '\0' && strchr("*+?", *p->at) != NULL) {
		return bad(p, "a repetition of a repetition");
	}
	return rc;
}

static enum cairn_code parse_sequence(struct parser *p)
{
	while (*p->at != '\0' && *p->at != '|' && *p->at != ')') {
		int start = p->re->n;
		enum cairn_code rc = parse_atom(p);
		if (rc == CAIRN_OK) rc = parse_repetition(p, start);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

static enum cairn_code parse_alternatives(struct parser *p)
{
	int start = p->re->n;
	enum cairn_code rc = parse_sequence(p);
	while (rc == CAIRN_OK && *p->at == '|') {
		p->at++;
		int left = p->re->n - start;
		rc = insert(p, start, (struct inst){.op = OP_SPLIT, .a = 1, .b = left + 2});
		int jump = p->re->n;
		if (rc == CAIRN_OK) rc = append(p, (struct inst){.op = OP_JUMP});
		if (rc == CAIRN_OK) rc = parse_sequence(p);
		if (rc == CAIRN_OK) p->re->code[jump].a = p->re->n - jump;
	}
	return rc;
}

enum cairn_code cairn_regex_compile(const char *pattern, struct cairn_regex **ret,
				    struct cairn_err *err)
{
	size_t room = CAIRN_REGEX_PROGRAM_MAX * sizeof(struct inst);
	struct cairn_regex *re = calloc(1, sizeof(*re) + room);
	if (re == NULL) abort();
	struct parser p = {.pattern = pattern, .at = pattern, .re = re, .err = err};
	enum cairn_code rc = parse_alternatives(&p);
	if (rc == CAIRN_OK && *p.at != '\0') rc = bad(&p, "a ) without its (");
	if (rc == CAIRN_OK) rc = append(&p, (struct inst){.op = OP_MATCH});
	if (rc) {
		free(re);
		return rc;
	}
	struct cairn_regex *fit = realloc(re, sizeof(*re) + (size_t)re->n * sizeof(re->code[0]));
	*ret = fit != NULL ? fit : re;
	return CAIRN_OK;
}

void cairn_regex_free(struct cairn_regex *re)
{
	free(re);
}

/* ---- matching ---------------------------------------------------------------------------------*/

/* Instructions to look at, each at most once for one place in the text. */
struct states {
	int list[CAIRN_REGEX_PROGRAM_MAX];
	int n;
	bool in[CAIRN_REGEX_PROGRAM_MAX];
};

static void states_add(struct states *st, int pc)
{
	if (st->in[pc]) return;
	st->in[pc] = true;
	st->list[st->n++] = pc;
}

/* Follow what needs no byte. Returns true on a match. */
static bool states_close(const struct cairn_regex *re, struct states *st, bool begin, bool end)
{
	for (int i = 0; i < st->n; i++) {
		int pc = st->list[i];
		const struct inst *inst = &re->code[pc];
		switch (inst->op) {
		case OP_MATCH:
			return true;
		case OP_SPLIT:
			states_add(st, pc + inst->b); /* fall through */
			__attribute__((fallthrough));
		case OP_JUMP:
			states_add(st, pc + inst->a);
			break;
		case OP_BEGIN:
			if (begin) states_add(st, pc + 1);
			break;
		case OP_END:
			if (end) states_add(st, pc + 1);
			break;
		case OP_SET:
			break;
		}
	}
	return false;
}

bool cairn_regex_match(const struct cairn_regex *re, const char *text)
{
	struct states now = {.n = 0};
	for (const char *at = text;; at++) {
		states_add(&now, 0); /* a match may begin anywhere */
		if (states_close(re, &now, at == text, *at == '\0')) return true;
		if (*at == '\0') return false;
		struct states next = {.n = 0};
		for (int i = 0; i < now.n; i++) {
			const struct inst *inst = &re->code[now.list[i]];
			if (inst->op == OP_SET && set_has(inst->set, (unsigned char)*at)) {
				states_add(&next, now.list[i] + 1);
			}
		}
		now = next;
	}
}
