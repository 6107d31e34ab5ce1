package archive

import (
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// TestLine has what `casync list` prints.
func TestLine(t *testing.T) {
	for _, tt := range []struct {
		mode uint32
		path string
		want string
	}{
		{catar.ModeDir | 0o1777, ".", "drwxrwxrwt ."},
		{catar.ModeDir | 0o1776, "a b", `drwxrwxrwT a\040b`},
		{catar.ModeDir | 0o7777, `a\b`, `drwsrwsrwt a\134b`},
		{catar.ModeRegular | 0o7777, "x#", `-rwsrwsrwx x\043`},
		{catar.ModeRegular | 0o1000, "x\x7f", `---------- x\177`},
		{catar.ModeRegular | 0o6644, "\xff", `-rwSr-Sr-- \377`},
		{catar.ModeFIFO | 0o1777, "p~!$&'*", "prwxrwxrwx p~!$&'*"},
		{catar.ModeSymlink | 0o777, "l", "lrwxrwxrwx l"},
		{catar.ModeBlock | 0o600, "b", "brw------- b"},
		{catar.ModeChar | 0o600, "c", "crw------- c"},
		{catar.ModeSocket | 0o755, "s", "srwxr-xr-x s"},
	} {
		if got := Line(tt.path, &catar.Entry{Mode: tt.mode}); got != tt.want {
			t.Errorf("%#o %q: %q, want %q", tt.mode, tt.path, got, tt.want)
		}
	}
}
