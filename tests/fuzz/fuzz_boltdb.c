/* containerd's database file: any bytes are records or an error. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plugin/boltdb.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("meta.db", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);

	struct cairn_records records = {0};
	struct cairn_err err = {0};
	bool running = false;
	if (cairn_boltdb_read(path, &records, &running, &err) == CAIRN_OK) {
		FUZZ_CHECK(records.n <= CAIRN_BOLTDB_RECORDS_MAX);
		for (size_t i = 0; i < records.n; i++) {
			FUZZ_CHECK(records.list[i].ns < records.n_namespaces);
			FUZZ_CHECK(cairn_alg_name(records.list[i].digest.alg) != NULL);
		}
		for (size_t i = 0; i < records.n_namespaces; i++) {
			size_t len = strlen(records.namespaces[i]);
			FUZZ_CHECK(len > 0 && len <= CAIRN_BOLTDB_NAMESPACE_LEN_MAX);
		}
		cairn_records_fini(&records);
	} else {
		FUZZ_CHECK(err.code != CAIRN_OK && err.msg[0] != '\0');
	}
	close(fd);
	return 0;
}
