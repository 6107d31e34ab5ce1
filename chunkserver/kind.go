package chunkserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/chunk"
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

// fileTag returns the entity tag of a file. Files named by their content have their
// name; but for the size, which tells two compressed forms of a chunk apart.
// Others are replaced by rename: a new version has another inode, or at least
// another time.
func (k *kind) fileTag(name string, fi fs.FileInfo) string {
	if k.immutable {
		return contentTag(name, fi.Size())
	}
	inode := uint64(0)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf(`"%x-%x-%x"`, inode, fi.ModTime().UnixNano(), fi.Size())
}

// tagOf returns the entity tag of a file of which nothing but the bytes are known.
func (k *kind) tagOf(name string, data []byte) string {
	if k.immutable {
		return contentTag(name, int64(len(data)))
	}
	sum := sha256.Sum256(data)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// contentTag returns the entity tag of a file that is named by its content.
func contentTag(name string, size int64) string {
	return `"` + path.Base(name) + "-" + strconv.FormatInt(size, 16) + `"`
}

// headers sets what goes with a file.
func (k *kind) headers(w http.ResponseWriter, tag string) {
	h := w.Header()
	h.Set("Content-Type", k.contentType)
	h.Set("Cache-Control", k.cacheControl)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", tag)
}

// The first bytes of indexes and of archives (docs/format/catar.md).
const (
	indexMagic   = "\x30\x00\x00\x00\x00\x00\x00\x00\xf9\x9f\x12\x7b\x9c\x4d\x82\x96"
	archiveMagic = "\x40\x00\x00\x00\x00\x00\x00\x00\x51\xbb\x5b\xea\xbc\xfa\x96\x13"
)

// verify checks that what is named by its content is what it is named, and that the rest
// is at least a file of its kind, not what a captive portal says.
func (k *kind) verify(name string, data []byte) error {
	base := path.Base(name)
	good := true
	switch k {
	case blobKind:
		sum := sha256.Sum256(data)
		good = hex.EncodeToString(sum[:]) == base
	case chunkKind:
		_, _, err := verified(name, data, chunk.MaxSize)
		return err
	case jsonKind:
		good = json.Valid(data)
	case fileKind:
		magic := indexMagic
		if path.Ext(base) == ".catar" {
			magic = archiveMagic
		}
		good = bytes.HasPrefix(data, []byte(magic))
	}
	if !good {
		return notThat(name)
	}
	return nil
}

func notThat(name string) error {
	return fmt.Errorf("chunkserver: %s: upstream sends something else under this name", name)
}
