package archive

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/stores"
)

// ErrUsage means that what is asked for makes no sense.
var ErrUsage = errors.New("wrong usage")

// Kind is what a file holds.
type Kind uint8

// The kinds of files, by the suffixes that casync gives them.
const (
	Unknown      Kind = iota
	Archive           // .catar: a directory tree as one stream
	ArchiveIndex      // .caidx: the chunks of such a stream
	BlobIndex         // .caibx: the chunks of any other stream
	Blob              // any other file; no suffix says so
	Directory         // a tree on the disk; no suffix says so
)

// KindOf tells the kind of a file from its name, a path or a URL.
func KindOf(name string) Kind {
	if u, ok := parseURL(name); ok {
		name = u.Path
	}
	switch path.Ext(name) {
	case ".catar":
		return Archive
	case ".caidx":
		return ArchiveIndex
	case ".caibx":
		return BlobIndex
	}
	return Unknown
}

// ParseKind returns the kind that casync's option --what calls by this name.
func ParseKind(what string) (Kind, error) {
	k, ok := map[string]Kind{
		"archive": Archive, "archive-index": ArchiveIndex, "blob": Blob, "blob-index": BlobIndex, "directory": Directory,
	}[what]
	if !ok {
		return Unknown, fmt.Errorf("archive: %w: %q is not archive, archive-index, blob, blob-index or directory", ErrUsage, what)
	}
	return k, nil
}

// parseURL returns name as an http or https URL, if it is one.
func parseURL(name string) (*url.URL, bool) {
	if !stores.IsURL(name) {
		return nil, false
	}
	u, err := url.Parse(name)
	return u, err == nil
}

// DefaultStore returns where the chunks of an index are when nobody says: in
// default.castr beside it.
func DefaultStore(index string) string {
	const name = "default.castr"
	if u, ok := parseURL(index); ok {
		c := *u
		c.Path, c.RawPath = path.Join(path.Dir(u.Path), name), ""
		return c.String()
	}
	if !strings.HasPrefix(index, "/") {
		if host, path, ok := strings.Cut(index, ":"); ok && !strings.Contains(host, "/") && !strings.HasPrefix(path, "//") {
			return host + ":" + filepath.Join(filepath.Dir(path), name)
		}
	}
	if rest, ok := strings.CutPrefix(index, "ssh://"); ok {
		return "ssh://" + path.Join(path.Dir(rest), name)
	}
	return filepath.Join(filepath.Dir(index), name)
}
