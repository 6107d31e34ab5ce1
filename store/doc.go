// Package store defines what a chunk store is, and the packed form of chunks.
//
// A [Store] gives packed chunks by ID and nothing else. What only some stores
// can do are interfaces of one method ([Writer], [Checker], [Statter]), found
// through decorators by [As]. Implementations are in the packages below this
// one; each passes the suite in storetest.
//
// A store does not verify. A [Packed] is what somebody claims to be a chunk;
// [Unpack] is the one place where a claim becomes bytes that can be used: it
// decompresses within the size that the index states and checks the digest. No
// other function returns a chunk's bytes.
package store
