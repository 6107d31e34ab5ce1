package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// List calls show with every node of an archive, in order, and its path,
// "." for the root. Unless deep, it leaves out what is below the directories
// that are directly in the first node.
func List(ctx context.Context, in *Input, deep bool, show func(path string, e *catar.Entry) error) error {
	most := 1
	if in.sub != nil { // the first node has depth 1
		most = 2
	}
	return walk(ctx, in, func(path string, e *catar.Entry, _ *catar.Reader) error {
		if !deep && e.Depth > most {
			return nil
		}
		return show(path, e)
	})
}

// walk calls visit with every node of an archive, in order, its path, "." for
// the root, and the reader that gives its contents. The nodes know their place
// in the whole archive, also when a part is read.
func walk(ctx context.Context, in *Input, visit func(path string, e *catar.Entry, r *catar.Reader) error) error {
	if !in.IsArchive() {
		return fmt.Errorf("archive: %w: %s is not an archive, an index of one or a directory", ErrUsage, in.name)
	}
	return in.Read(ctx, func(_ context.Context, r io.Reader) error {
		cr := in.reader(r)
		var dirs []string // of the open directories, by depth
		for {
			e, err := cr.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return in.fault(err)
			}
			path := "."
			switch {
			case e.Depth == 1 && in.sub != nil:
				path = in.sub.path
			case e.Depth == 1:
				path = e.Name
			case e.Depth > 1:
				path = dirs[e.Depth-1] + "/" + e.Name
			}
			dirs = append(dirs[:e.Depth], path)
			if in.sub != nil {
				if e.Depth == 0 {
					continue // is none of the archive's
				}
				e.Offset += in.sub.node.Start - uint64(len(in.sub.head))
			}
			if err := visit(path, e, cr); err != nil {
				return in.fault(err)
			}
		}
	})
}

// Line is how casync lists a node: the mode as ls(1) shows it and the path,
// with all bytes escaped that a terminal or a shell could take amiss.
func Line(path string, e *catar.Entry) string {
	return modeString(e.Mode) + " " + escape(path)
}

// modeString returns the mode as ls(1) shows it.
func modeString(mode uint32) string {
	s := []byte("?rwxrwxrwx")
	for t, c := range map[uint32]byte{
		catar.ModeRegular: '-', catar.ModeDir: 'd', catar.ModeSymlink: 'l', catar.ModeBlock: 'b',
		catar.ModeChar: 'c', catar.ModeFIFO: 'p', catar.ModeSocket: 's',
	} {
		if mode&catar.ModeType == t {
			s[0] = c
		}
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			s[1+i] = '-'
		}
	}
	for _, x := range []struct {
		bit  uint32
		at   int
		with string // instead of "-" and "x"
	}{{0o4000, 3, "Ss"}, {0o2000, 6, "Ss"}, {0o1000, 9, "Tt"}} {
		switch {
		case mode&x.bit == 0, x.at == 9 && mode&catar.ModeType != catar.ModeDir: // casync shows a sticky bit of directories alone
		case s[x.at] == '-':
			s[x.at] = x.with[0]
		default:
			s[x.at] = x.with[1]
		}
	}
	return string(s)
}

// escape writes all but printable ASCII, the backslash and the number sign as
// three octal digits.
func escape(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
