/* What a registry's or token server's answer means to us. */
#ifndef CAIRN_OCI_ANSWER_H
#define CAIRN_OCI_ANSWER_H

#include "oci/http.h"

/* An answer whose status is not below 300, as an error that quotes what the server says of it.
 * The url is shown without its query. */
CAIRN_CHECKED enum cairn_code cairn_answer_error(const struct cairn_http_answer *answer,
						 const char *url, struct cairn_again *ret,
						 struct cairn_err *err);

/* Forget what an error's body says if it quotes the secret (NULL is fine), were it in part. */
void cairn_answer_hide(struct cairn_http_answer *answer, const char *secret);

/* "bytes first-last/total"; total UINT64_MAX: not told ("*"). False: not of that form. */
CAIRN_CHECKED bool cairn_content_range(const char *text, uint64_t *ret_first, uint64_t *ret_last,
				       uint64_t *ret_total);

#endif
