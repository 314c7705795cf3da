#include "plugin/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct cairn_regex {
	pcre2_code *code;
	pcre2_match_context *limits;
};

static enum cairn_code bad_pattern(const char *pattern, int number, size_t at,
				   struct cairn_err *err)
{
	PCRE2_UCHAR why[128] = "";
	(void)pcre2_get_error_message(number, why, sizeof(why));
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "regular expression \"%.200s\", at character %zu: %s", pattern, at + 1,
			     (const char *)why);
}

enum cairn_code cairn_regex_compile(const char *pattern, struct cairn_regex **ret,
				    struct cairn_err *err)
{
	/* As RE2: "$" is the end of the text, not also before a last newline. */
	const uint32_t options = PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_DOLLAR_ENDONLY |
				 PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C;
	int number;
	PCRE2_SIZE at;
	pcre2_compile_context *context = pcre2_compile_context_create(NULL);
	if (context == NULL) abort();
	pcre2_set_max_pattern_length(context, CAIRN_REGEX_LENGTH_MAX);
	pcre2_set_parens_nest_limit(context, CAIRN_REGEX_DEPTH_MAX);
	pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options,
					 &number, &at, context);
	pcre2_compile_context_free(context);
	if (code == NULL) return bad_pattern(pattern, number, at, err);
	struct cairn_regex *re = calloc(1, sizeof(*re));
	if (re == NULL) abort();
	re->code = code;
	re->limits = pcre2_match_context_create(NULL);
	if (re->limits == NULL) abort();
	pcre2_set_match_limit(re->limits, CAIRN_REGEX_STEPS_MAX);
	pcre2_set_heap_limit(re->limits, CAIRN_REGEX_HEAP_KIB_MAX);
	*ret = re;
	return CAIRN_OK;
}

void cairn_regex_free(struct cairn_regex *re)
{
	if (re == NULL) return;
	pcre2_match_context_free(re->limits);
	pcre2_code_free(re->code);
	free(re);
}

bool cairn_regex_match(const struct cairn_regex *re, const char *text)
{
	pcre2_match_data *found = pcre2_match_data_create(1, NULL);
	if (found == NULL) abort();
	int rc = pcre2_match(re->code, (PCRE2_SPTR)text, strlen(text), 0, 0, found, re->limits);
	pcre2_match_data_free(found);
	return rc >= 0;
}
