/* Give back the memory that only the start needed. Private to cmd/. */
#ifndef CAIRN_CMD_CAIRND_TRIM_H
#define CAIRN_CMD_CAIRND_TRIM_H

/* Unmap the pages of programs and libraries that were touched so far (relocation, constructors,
 * loading the index): what serving needs comes back from the page cache by itself, the rest counts
 * for this process no more and may be reclaimed. Some 7 MiB of resident memory. Does nothing under
 * a debugger, whose breakpoints are in these pages. */
void cairn_trim_startup(void);

#endif
