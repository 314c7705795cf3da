/* The names in a certificate, which decide who is an admin: each is whole, shown as it is, and ends
 * within its place. The certificates that come here in life are signed by the cluster's authority,
 * which may have signed what somebody asked for. */
#include <string.h>

#include "p2p/tls.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cairn_tls_names names; /* large, and set anew each time */
	X509 *cert = d2i_X509(NULL, &data, (long)size);
	if (cert == NULL) return 0;
	cairn_tls_names_of(cert, &names);
	FUZZ_CHECK(names.n <= CAIRN_TLS_NAMES_MAX);
	for (size_t i = 0; i < names.n; i++) {
		const char *name = names.name[i];
		size_t n = strnlen(name, CAIRN_TLS_NAME_MAX);
		FUZZ_CHECK(n > 0 && n < CAIRN_TLS_NAME_MAX);
		for (size_t at = 0; at < n; at++) {
			FUZZ_CHECK((unsigned char)name[at] >= ' ' && name[at] != 0x7f);
		}
	}
	X509_free(cert);
	return 0;
}
