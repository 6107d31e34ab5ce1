package chunkserver

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

// kind is how files of one sort are served.
type kind struct {
	contentType  string
	cacheControl string
	immutable    bool // named by its content
}

const (
	binary  = "application/octet-stream"
	forever = "public, max-age=31536000, immutable"
	ask     = "no-cache"
)

var (
	chunkKind = &kind{binary, forever, true}
	blobKind  = &kind{binary, forever, true}
	fileKind  = &kind{binary, ask, false}
	jsonKind  = &kind{"application/json", ask, false}
)

// kindOf returns how the file at name, a slash-separated path, is served, or nil
// if it is none that a repository publishes (docs/format/repository.md):
//
//	…/<4 hex>/<64 hex>.cacnk, …/<4 hex>/<64 hex>   chunks
//	…/blobs/sha256/<64 hex>                        blobs
//	….json, …/oci-layout                           JSON
//	….caidx, ….caibx, ….catar                      indexes and archives
//
// No element may begin with a dot or be empty, which leaves out temporary files,
// locks and "..".
func kindOf(name string) *kind {
	if len(name) > 4096 || strings.ContainsAny(name, "\x00\\") {
		return nil
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || elem[0] == '.' {
			return nil
		}
	}
	dir, base := path.Split(name)
	dir = path.Base(strings.TrimSuffix(dir, "/"))
	switch path.Ext(base) {
	case ".json":
		return jsonKind
	case ".caidx", ".caibx", ".catar":
		return fileKind
	case ".cacnk":
		if isChunk(dir, strings.TrimSuffix(base, ".cacnk")) {
			return chunkKind
		}
	case "":
		switch {
		case base == "oci-layout":
			return jsonKind
		case isChunk(dir, base):
			return chunkKind
		case isHex(base, 64) && strings.HasSuffix("/"+path.Dir(name), "/blobs/sha256"):
			return blobKind
		}
	}
	return nil
}

// isChunk reports whether a chunk store may have the file base in dir.
func isChunk(dir, base string) bool {
	return isHex(base, 64) && isHex(dir, 4) && strings.HasPrefix(base, dir)
}

// isHex reports whether s is n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// etag returns the entity tag of a file. Files named by their content have their
// name; but for the size, which tells two compressed forms of a chunk apart.
// Others are replaced by rename: a new version has another inode, or at least
// another time.
func (k *kind) etag(name string, fi fs.FileInfo) string {
	if k.immutable {
		return contentTag(name, fi.Size())
	}
	inode := uint64(0)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf("%q", fmt.Sprintf("%x-%x-%x", inode, fi.ModTime().UnixNano(), fi.Size()))
}

// contentTag returns the entity tag of a file that is named by its content.
func contentTag(name string, size int64) string {
	return fmt.Sprintf("%q", fmt.Sprintf("%s-%x", path.Base(name), size))
}
