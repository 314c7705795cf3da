/* Messages that are too long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "base/err.h"

/* Every character is whole, wherever the end comes. */
static bool is_utf8(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p != 0;) {
		int more = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : *p >= 0xc0 ? 1 : 0;
		if (more == 0 && *p >= 0x80) return false;
		for (p++; more > 0; more--, p++) {
			if ((*p & 0xc0) != 0x80) return false;
		}
	}
	return true;
}

static void set__cuts_between_two_characters(void **state)
{
	(void)state;
	static const char *const characters[] = {"a", "\u00e4", "\u20ac", "\U0001f980"};
	struct cairn_err err;
	char text[2 * sizeof(err.msg)];
	for (size_t k = 0; k < 4; k++) {
		for (size_t lead = 0; lead < 4; lead++) {
			size_t width = strlen(characters[k]), n = lead;
			memset(text, 'x', lead);
			while (n + width < sizeof(text)) {
				memcpy(text + n, characters[k], width);
				n += width;
			}
			text[n] = '\0';
			cairn_err_set(&err, CAIRN_INTERNAL, "%s", text);
			assert_true(is_utf8(err.msg));
			assert_true(strlen(err.msg) > sizeof(err.msg) - 1 - width);
			cairn_err_wrap(&err, "%.*s", (int)lead, "why");
			assert_true(is_utf8(err.msg));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set__cuts_between_two_characters),
	};
	return cmocka_run_group_tests_name("base/err", tests, NULL, NULL);
}
