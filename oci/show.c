#include "oci/show.h"

#include <string.h>

const char *cairn_show(const char *s, size_t n, char buf[static CAIRN_SHOW_MAX + 4])
{
	size_t shown = n < CAIRN_SHOW_MAX ? n : CAIRN_SHOW_MAX;
	for (size_t i = 0; i < shown; i++) buf[i] = s[i] >= ' ' && s[i] <= '~' ? s[i] : '?';
	strcpy(buf + shown, shown < n ? "..." : "");
	return buf;
}
