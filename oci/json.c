/* What jansson would spend on a text is bounded before it sees it: its parser recurses, on a stack
 * that may be a fiber's 64 KiB, and an array or object costs it up to a hundred times the two bytes
 * that it is written in. It refuses by itself what is not UTF-8, NUL, numbers that fit in nothing,
 * and text after the end; duplicate keys are refused because readers differ in which of them they
 * take. */
#include "oci/json.h"

#include <stdlib.h>
#include <string.h>

#include "oci/show.h"

#define JSON_DEPTH_MAX 64	   /* containers in containers; a manifest has 5, a config 4 */
#define JSON_VALUES_MAX (1u << 17) /* a full index of 4096 entries has some 80,000 */

/* The end of the string that begins at json[at]: its closing quote, or len. */
static size_t string_end(const char *json, size_t len, size_t at)
{
	for (at++; at < len && json[at] != '"'; at++) {
		if (json[at] == '\\') at++;
	}
	return at;
}

/* Count what the parser would make of the text. Where that is not JSON the count is wrong, but the
 * parser stops there. */
static enum cairn_code check_bounds(const char *json, size_t len, struct cairn_err *err)
{
	size_t depth = 0, values = 1;
	for (size_t i = 0; i < len; i++) {
		switch (json[i]) {
		case '"':
			i = string_end(json, len, i);
			break;
		case '{':
		case '[':
			depth++;
			values++;
			break;
		case '}':
		case ']':
			if (depth > 0) depth--;
			break;
		case ',':
			values++;
			break;
		default:
			break;
		}
		if (depth > JSON_DEPTH_MAX) {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					     "JSON nested deeper than %d at byte %zu",
					     JSON_DEPTH_MAX, i + 1);
		}
		if (values > JSON_VALUES_MAX) {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					     "more than %u JSON values", JSON_VALUES_MAX);
		}
	}
	return CAIRN_OK;
}

enum cairn_code cairn_json_load(const char *json, size_t len, bool secret, json_t **ret,
				struct cairn_err *err)
{
	json_error_t why;
	char shown[CAIRN_SHOW_MAX + 4];
	if (len == 0) return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "not JSON: empty");
	enum cairn_code code = check_bounds(json, len, err);
	if (code != CAIRN_OK) return code;
	*ret = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	if (*ret != NULL) return CAIRN_OK;
	if (json_error_code(&why) == json_error_out_of_memory) abort();
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "not JSON that can be taken, at byte %d%s%s", why.position,
			     secret ? "" : ": ",
			     secret ? "" : cairn_show(why.text, strlen(why.text), shown));
}
