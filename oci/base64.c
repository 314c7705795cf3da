#include "oci/base64.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *cairn_base64_encode(const char *data, size_t n)
{
	char *text = malloc(4 * ((n + 2) / 3) + 1), *to = text;
	if (text == NULL) abort();
	for (size_t i = 0; i < n; i += 3) {
		uint32_t bits = 0;
		size_t have = n - i < 3 ? n - i : 3;
		for (size_t k = 0; k < 3; k++) {
			bits = bits << 8 | (k < have ? (unsigned char)data[i + k] : 0u);
		}
		for (size_t k = 0; k < 4; k++) {
			*to++ = k <= have ? digits[bits >> (18 - 6 * k) & 63] : '=';
		}
	}
	*to = '\0';
	return text;
}

char *cairn_base64_decode(const char *text, size_t *ret_n)
{
	size_t n = strlen(text), len = 0, pads = 0;
	while (n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL) n--;
	while (n > 0 && pads < 2 && text[n - 1] == '=') n--, pads++;
	if (n % 4 == 1 || (pads > 0 && (n + pads) % 4 != 0)) return NULL;
	char *data = malloc(n + 1);
	if (data == NULL) abort();
	uint32_t bits = 0;
	for (size_t i = 0; i < n; i++) {
		const char *digit = strchr(digits, text[i]);
		if (digit == NULL) {
			explicit_bzero(data, len);
			free(data);
			return NULL;
		}
		bits = (bits << 6 | (uint32_t)(digit - digits)) & 0xffffff;
		/* Each digit but the first of four completes a byte. */
		if (i % 4 > 0) data[len++] = (char)(bits >> (6 - 2 * (i % 4)) & 0xff);
	}
	data[len] = '\0';
	*ret_n = len;
	return data;
}
