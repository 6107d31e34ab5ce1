package seed

import (
	"context"
	"sync/atomic"
)

// Indexed is what [Index] did.
type Indexed struct {
	// Files and Bytes count the files of the tree.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Read and ReadBytes count those whose digest was not known.
	Read      int   `json:"read"`
	ReadBytes int64 `json:"readBytes"`
}

// Index learns the digests of all files of the directory tree at path, so that
// no later run reads them to plan. It is of use with DirOptions.Memory alone.
func Index(ctx context.Context, path string, opts DirOptions) (Indexed, error) {
	s, err := OpenDir(path, opts)
	if err != nil {
		return Indexed{}, err
	}
	d := s.(*dirSeed)
	scan := d.opts.Memory.Scan(d.path)
	var out Indexed
	var unknown []candidate
	err = d.walk(ctx, scan, func(c candidate, _ string, known *Digest) {
		out.Files++
		out.Bytes += c.size
		if known == nil && c.size > 0 {
			unknown = append(unknown, c)
		}
	})
	if err != nil {
		return out, err
	}
	var read, bytes atomic.Int64
	err = d.hashAll(ctx, scan, unknown, func(candidate) bool { return true }, func(c candidate, _ Digest) {
		read.Add(1)
		bytes.Add(c.size)
	})
	out.Read, out.ReadBytes = int(read.Load()), bytes.Load()
	return out, err
}
