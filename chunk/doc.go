// Package chunk cuts byte streams into casync's content-defined chunks and
// names them.
//
// A [Chunker] reproduces casync's cut points for every chunk size setting: the
// same bytes and the same [Params] give the same chunks, and so the same
// [ID]s, on every platform. An ID is the digest of a chunk's uncompressed
// bytes under an [Algorithm], which is a property of the index that names the
// chunk and therefore a value here, never a global.
//
// The package knows neither stores nor files and imports the standard library,
// and what tells it about the processor, alone. The rules it follows are those of docs/format/chunks.md.
package chunk
