package tree

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// List prints one line for each node of an archive, mode and path, as "casync
// list" does.
func List(ctx context.Context, r *catar.Reader, w io.Writer) error {
	out := bufio.NewWriter(w)
	var path []string
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			// What was listed before is of use to whoever looks for the fault.
			return errors.Join(err, out.Flush())
		}
		if e.Depth > 0 {
			path = append(path[:e.Depth-1], e.Name)
		}
		name := "."
		if len(path) > 0 {
			name = escape(strings.Join(path, "/"))
		}
		if _, err := fmt.Fprintf(out, "%s %s\n", modeString(e.Mode), name); err != nil {
			return err
		}
	}
}

// modeString returns a mode as ls(1) shows it, but with the sticky bit only on
// directories.
func modeString(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	switch mode & catar.ModeType {
	case catar.ModeRegular:
		b[0] = '-'
	case catar.ModeDir:
		b[0] = 'd'
	case catar.ModeSymlink:
		b[0] = 'l'
	case catar.ModeBlock:
		b[0] = 'b'
	case catar.ModeChar:
		b[0] = 'c'
	case catar.ModeFIFO:
		b[0] = 'p'
	case catar.ModeSocket:
		b[0] = 's'
	}
	for i := range 9 {
		if mode&(0o400>>i) == 0 {
			b[1+i] = '-'
		}
	}
	special := func(at int, bit uint32, with, without byte) {
		if mode&bit == 0 {
			return
		}
		if b[at] == 'x' {
			b[at] = with
		} else {
			b[at] = without
		}
	}
	special(3, 0o4000, 's', 'S')
	special(6, 0o2000, 's', 'S')
	if mode&catar.ModeType == catar.ModeDir {
		special(9, 0o1000, 't', 'T')
	}
	return string(b)
}

// escape writes whatever could be mistaken in a line of text as three octal
// digits after a backslash, as mtree(5) has it.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
