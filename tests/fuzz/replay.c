/* Gives every file named on the command line, and every file in the folders named, to the fuzz
 * target once: how the corpora are replayed as ordinary tests, without libFuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

#define INPUT_MAX (64u << 20) /* no corpus file is larger */

static bool replay_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	if (f == NULL) {
		perror(path);
		return false;
	}
	uint8_t *data = NULL;
	size_t n = 0, cap = 0, got;
	do {
		if (n == cap) {
			cap = cap == 0 ? 4096 : 2 * cap;
			data = cap <= INPUT_MAX ? realloc(data, cap) : NULL;
			if (data == NULL) abort();
		}
		got = fread(data + n, 1, cap - n, f);
		n += got;
	} while (got > 0);
	fclose(f);

	/* An exact copy, so that the address sanitizer sees one byte too many. */
	uint8_t *exact = malloc(n > 0 ? n : 1);
	if (exact == NULL) abort();
	memcpy(exact, data, n);
	free(data);
	printf("%s (%zu bytes)\n", path, n);
	fflush(stdout);
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
	return true;
}

static int replay_dir(const char *path, unsigned *count)
{
	DIR *dir = opendir(path);
	if (dir == NULL) {
		perror(path);
		return 1;
	}
	int bad = 0;
	struct dirent *entry;
	while ((entry = readdir(dir)) != NULL) {
		char file[4096];
		if (entry->d_name[0] == '.') continue;
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (replay_file(file)) {
			(*count)++;
		} else {
			bad = 1;
		}
	}
	closedir(dir);
	return bad;
}

int main(int argc, char **argv)
{
	unsigned count = 0;
	int bad = 0;
	for (int i = 1; i < argc; i++) {
		struct stat st;
		if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
			bad |= replay_dir(argv[i], &count);
		} else if (replay_file(argv[i])) {
			count++;
		} else {
			bad = 1;
		}
	}
	printf("%u inputs replayed\n", count);
	return bad != 0 || count == 0; /* an empty corpus proves nothing */
}
