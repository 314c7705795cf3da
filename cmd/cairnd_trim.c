#include "cmd/cairnd_trim.h"

#include <link.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool is_traced(void)
{
	char line[256];
	int tracer = 0;
	FILE *f = fopen("/proc/self/status", "re");
	if (f == NULL) return true; /* in doubt, leave everything as it is */
	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "TracerPid: %d", &tracer) == 1) break;
	}
	fclose(f);
	return tracer != 0;
}

/* Code that the dynamic linker has patched in place would be lost. */
static bool is_patched(const struct dl_phdr_info *info)
{
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		if (info->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
		uintptr_t at = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
		for (const ElfW(Dyn) *d = (const void *)at; d->d_tag != DT_NULL; d++) {
			if (d->d_tag == DT_TEXTREL) return true;
			if (d->d_tag == DT_FLAGS && (d->d_un.d_val & DF_TEXTREL) != 0) return true;
		}
	}
	return false;
}

/* Segments that nobody may write to are equal to the file, so dropping them loses nothing. */
static int drop_segments(struct dl_phdr_info *info, size_t size, void *page_bytes)
{
	(void)size;
	const uintptr_t page = *(const uintptr_t *)page_bytes;
	if (is_patched(info)) return 0;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) != 0) continue;
		uintptr_t from = (info->dlpi_addr + segment->p_vaddr) / page * page;
		uintptr_t to = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;
		(void)madvise((void *)from, to - from, MADV_DONTNEED); /* fails for the vdso */
	}
	return 0;
}

void cairn_trim_startup(void)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	(void)malloc_trim(0);
	if (!is_traced()) dl_iterate_phdr(drop_segments, &page);
}
