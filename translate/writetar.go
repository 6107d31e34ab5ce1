package translate

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// WriteLayer writes the filesystem src as one uncompressed layer that makes all
// of it: docs/format/export.md, section 2. The same nodes give the same bytes,
// whatever the machine. Contents are read in the order of the nodes, each once,
// and checked against the digests of their nodes as far as these are known;
// unknown ones are filled in.
//
// What no layer can say is left out: sockets, and names that would be read as
// whiteouts, with all below them. Their indexes are returned.
func WriteLayer(ctx context.Context, src *toc.Source, w io.Writer) (omitted []int, err error) {
	l := &layerWriter{w: w, contents: toc.NewCopier(src), written: map[int]string{}}
	var dirs []string // paths of the open directories, each with a slash at its end
	skip := -1        // the depth of a directory that is left out
	for i := range src.Nodes {
		n := &src.Nodes[i]
		if skip >= 0 && n.Depth > skip {
			continue
		}
		skip = -1
		dirs = dirs[:n.Depth]
		name := "./"
		if i > 0 {
			name = dirs[n.Depth-1] + n.Name
		}
		if n.Type() == toc.TypeSocket || strings.HasPrefix(n.Name, whiteoutPrefix) {
			omitted = append(omitted, i)
			if n.IsDir() {
				skip = n.Depth
			}
			continue
		}
		if n.IsDir() {
			below := ""
			if i > 0 {
				name += "/"
				below = name
			}
			dirs = append(dirs, below)
		}
		if err := l.node(ctx, i, n, name); err != nil {
			return nil, fmt.Errorf("translate: write layer: %q: %w", toc.Path(src.Nodes, i), err)
		}
	}
	l.contents.Spread()
	if _, err := w.Write(make([]byte, 2*tarBlock)); err != nil {
		return nil, fmt.Errorf("translate: write layer: %w", err)
	}
	return omitted, nil
}

// layerWriter writes the entries of one layer.
type layerWriter struct {
	w        io.Writer
	contents *toc.Copier
	written  map[int]string // by leader of a hard-link group: the name that has its content
	buf      []byte
}

// node writes the entry of node i, which has the given path in the layer.
func (l *layerWriter) node(ctx context.Context, i int, n *toc.Node, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	leader := i
	if n.Link >= 0 {
		leader = int(n.Link)
	}
	if first, ok := l.written[leader]; ok {
		l.buf = appendTarHeader(l.buf[:0], n, name, tarHardLink, first)
		_, err := l.w.Write(l.buf)
		return err
	}
	// Only a leader can have followers, but one that was left out has a stand-in.
	if !n.IsDir() {
		l.written[leader] = name
	}
	l.buf = appendTarHeader(l.buf[:0], n, name, tarTypes()[n.Type()], n.Target)
	if _, err := l.w.Write(l.buf); err != nil || n.Size == 0 {
		return err
	}
	if err := l.contents.Copy(ctx, l.w, leader); err != nil {
		return err
	}
	if pad := -n.Size & (tarBlock - 1); pad > 0 {
		_, err := l.w.Write(make([]byte, pad))
		return err
	}
	return nil
}
