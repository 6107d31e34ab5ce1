package catar

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// goldens returns the archives that casync made: testdata/catar/README.md.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../testdata/catar/*.catar")
	if err != nil || len(files) < 7 {
		t.Fatalf("goldens: %d, %v", len(files), err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".catar")] = b
	}
	return all
}

// copyArchive reads an archive and writes it again.
func copyArchive(w io.Writer, r io.Reader) error {
	in := NewReader(r)
	var out *Writer
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if out == nil {
			out = NewWriter(w, in.Flags())
		}
		if err := out.WriteEntry(e); err != nil {
			return err
		}
		if e.IsRegular() && out.Offset() != e.PayloadOffset {
			return errors.New("contents elsewhere")
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

func TestGoldensRoundTrip(t *testing.T) {
	for name, want := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			for _, wrap := range []func(io.Reader) io.Reader{
				func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader,
			} {
				var got bytes.Buffer
				if err := copyArchive(&got, wrap(bytes.NewReader(want))); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), want) {
					t.Fatal("written differently than read")
				}
			}
		})
	}
}

// TestGoldenHoldsEverything guards the goldens: a feature that they lack would
// be tested by nothing.
func TestGoldenHoldsEverything(t *testing.T) {
	seen := map[string]bool{}
	all := goldens(t)
	for _, name := range []string{"nodump", "image", "unix"} {
		r := NewReader(bytes.NewReader(all[name]))
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for what, has := range map[string]bool{
				"user": e.User != "", "group": e.Group != "", "xattr": len(e.XAttrs) > 2, "label": e.SELinux != "",
				"caps": len(e.FCaps) > 0, "flags": e.FileFlags != 0, "socket": e.Mode&ModeType == ModeSocket,
				"fifo": e.Mode&ModeType == ModeFIFO, "char": e.Major == 1, "block": e.Minor == 4095,
				"link": e.Target != "", "acl": e.ACL != nil && len(e.ACL.Groups) > 0,
				"default":       e.DefaultACL != nil && e.DefaultACL.HasMask && len(e.DefaultACL.Users) > 0,
				"plain default": e.DefaultACL != nil && !e.DefaultACL.HasMask,
				"setuid":        e.Mode&0o6000 == 0o6000, "content": e.Size == 7000, "id": e.UID == 50001,
				"acl name": e.ACL != nil && e.ACL.Users[0].Name != "",
			} {
				seen[what] = seen[what] || has
			}
		}
	}
	for what, has := range seen {
		if !has {
			t.Errorf("no golden has a %s", what)
		}
	}
}

// TestTruncation cuts an archive at every third byte.
func TestTruncation(t *testing.T) {
	b := goldens(t)["nodump"]
	for n := 0; n < len(b); n += 3 {
		r := NewReader(bytes.NewReader(b[:n]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, ErrMalformed) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

// TestFlippedBits changes every eleventh byte. What is still an archive must be the one
// that Writer makes of it.
func TestFlippedBits(t *testing.T) {
	b := goldens(t)["nodump"]
	refused := 0
	for i := 0; i < len(b); i += 11 {
		x := bytes.Clone(b)
		x[i] ^= 1 << (i % 8)
		var got bytes.Buffer
		err := copyArchive(&got, bytes.NewReader(x))
		switch {
		case err == nil && !bytes.Equal(got.Bytes(), x):
			t.Fatalf("byte %d: read differently than written", i)
		case err != nil && !errors.Is(err, ErrMalformed):
			t.Fatalf("byte %d: %v", i, err)
		case err != nil:
			refused++
		}
	}
	if refused < 400 {
		t.Errorf("only %d refused", refused)
	}
}

// TestErrorsAreSticky and come from the source unchanged where it is at fault.
func TestReadErrors(t *testing.T) {
	b := goldens(t)["unix"]
	broken := errors.New("broken")
	for n := 0; n < len(b); n += 97 {
		r := NewReader(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrMalformed) {
			t.Fatalf("at %d: %v", n, err)
		}
		if _, again := r.Next(); again != err {
			t.Fatalf("then %v", again)
		}
		if _, again := r.Read(make([]byte, 1)); again != err {
			t.Fatalf("then %v", again)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	b := goldens(t)["unix"]
	for n := 0; n < len(b); n += 997 {
		w := &limitedWriter{left: n}
		if err := copyArchive(w, bytes.NewReader(b)); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, io.ErrShortWrite
	}
	w.left -= len(p)
	return len(p), nil
}

// TestSkipIsLayout: a Writer over nothing knows where everything lies.
func TestSkipIsLayout(t *testing.T) {
	b := goldens(t)["image"]
	r := NewReader(bytes.NewReader(b))
	var w *Writer
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if w == nil {
			w = NewWriter(io.Discard, r.Flags())
		}
		if err := w.WriteEntry(e); err != nil {
			t.Fatal(err)
		}
		if e.IsRegular() && w.Offset() != e.PayloadOffset {
			t.Errorf("%s: contents at %d, want %d", e.Name, w.Offset(), e.PayloadOffset)
		}
		if err := w.Skip(e.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil || w.Offset() != uint64(len(b)) {
		t.Errorf("%d bytes, want %d; %v", w.Offset(), len(b), err)
	}
}

func TestNameHash(t *testing.T) {
	if h := nameHash([]byte("x")); h != 0x657524a2c582a278 {
		t.Errorf("%#x", h)
	}
}

func TestPosixACL(t *testing.T) {
	acl := PosixACL{
		UserObj: 7, GroupObj: 5, Other: 1, HasMask: true, Mask: 4,
		Users:  []ACLEntry{{ID: 0, Perm: 1}, {ID: 1000, Perm: 7}},
		Groups: []ACLEntry{{ID: 70000, Perm: 0}},
	}
	got, err := ParsePosixACL(acl.XAttr())
	if err != nil || !reflect.DeepEqual(got, acl) {
		t.Errorf("%+v, %v", got, err)
	}
	mode := acl.Mode(ModeRegular | 0o4000)
	if mode != ModeRegular|0o4741 {
		t.Errorf("mode %o", mode)
	}
	if back := acl.Access().Posix(mode); !reflect.DeepEqual(back, acl) {
		t.Errorf("%+v", back)
	}
	minimal := PosixACL{UserObj: 6, GroupObj: 4, Other: 4}
	if minimal.Access() != nil {
		t.Error("records for an ACL that the mode holds")
	}
	valid := acl.XAttr()
	swapped := bytes.Clone(valid)
	copy(swapped[4:12], valid[12:20])
	copy(swapped[12:20], valid[4:12])
	if got, err := ParsePosixACL(swapped); err != nil || !reflect.DeepEqual(got, acl) {
		t.Errorf("in another order: %+v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"empty":          {},
		"version":        append([]byte{1}, valid[1:]...),
		"length":         valid[:len(valid)-1],
		"missing entry":  valid[:len(valid)-8],
		"entry twice":    append(bytes.Clone(valid), valid[4:12]...),
		"id twice":       append(bytes.Clone(valid), valid[12:20]...),
		"unknown tag":    append(bytes.Clone(valid), 0x40, 0, 0, 0, 0, 0, 0, 0),
		"permissions":    append(bytes.Clone(valid), 2, 0, 8, 0, 9, 0, 0, 0),
		"no mask":        PosixACL{Users: acl.Users}.XAttr(),
		"no id":          append(bytes.Clone(valid), 2, 0, 7, 0, 255, 255, 255, 255),
		"only a version": {2, 0, 0, 0},
	} {
		if _, err := ParsePosixACL(b); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPosixACL(f *testing.F) {
	f.Add(PosixACL{UserObj: 7, HasMask: true, Users: []ACLEntry{{ID: 5, Perm: 4}}}.XAttr())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePosixACL(b)
		if err != nil {
			return
		}
		again, err := ParsePosixACL(p.XAttr())
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
		mode := p.Mode(ModeRegular)
		if a := p.Access(); a != nil && !reflect.DeepEqual(a.Posix(mode), p) {
			t.Errorf("%+v became %+v", p, a.Posix(mode))
		}
	})
}

// FuzzReader: what is an archive is written again as the same bytes, and
// nothing else is one.
func FuzzReader(f *testing.F) {
	for _, b := range goldens(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got bytes.Buffer
		err := copyArchive(&got, bytes.NewReader(b))
		if err == nil && !bytes.Equal(got.Bytes(), b) {
			t.Error("read differently than written")
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("not an error of the format: %v", err)
		}
	})
}

// TestWorkedExample holds the example of docs/format/catar.md, section 1.
func TestWorkedExample(t *testing.T) {
	const want = "400000000000000051bb5beabcfa9613" +
		"0000000000000020ff410000000000000000000000000000" +
		"000000000000000000000000000000000000000000000000" +
		"280000000000000003c427835e5cd3df" +
		"4000000000000000280000000000000043297033a56f4457"
	var b bytes.Buffer
	w := NewWriter(&b, SHA512_256)
	if err := errors.Join(w.WriteEntry(&Entry{Mode: ModeDir | 0o777}), w.Close()); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
