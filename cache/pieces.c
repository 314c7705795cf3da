/* The pieces of a blob, and the files in which they gather. */
#include "cache/pieces.h"

#include "cache/store.h"

uint64_t cairn_piece_size(uint64_t blob_size)
{
	uint64_t size = CAIRN_PIECE_MIN;
	if (blob_size == 0) return 0;
	while (size <= CAIRN_PIECE_MAX && (blob_size - 1) / size >= CAIRN_PIECES_MAX) size *= 2;
	return size <= CAIRN_PIECE_MAX ? size : 0;
}

uint32_t cairn_piece_count(uint64_t blob_size)
{
	uint64_t size = cairn_piece_size(blob_size);
	return size > 0 ? (uint32_t)((blob_size - 1) / size + 1) : 0;
}

uint64_t cairn_piece_length(uint64_t blob_size, uint32_t k)
{
	uint64_t size = cairn_piece_size(blob_size), from = k * size;
	return blob_size - from < size ? blob_size - from : size;
}
