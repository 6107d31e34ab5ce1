package sftpwire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// packet makes one.
func packet(kind byte, id uint32, body []byte) []byte {
	var b bytes.Buffer
	_ = sftpwire.NewWriter(&b).Send(kind, id, body)
	return b.Bytes()
}

// split reads a stream as both ends do, and takes what has an id of ours.
func split(r io.Reader) (passed, taken []byte, err error) {
	in := sftpwire.NewReader(r,
		func(_ byte, id uint32) bool { return id >= sftpwire.OwnIDs },
		func(kind byte, id uint32, body []byte) bool {
			if kind == 0 {
				return false
			}
			taken = append(taken, packet(kind, id, body)...)
			return true
		})
	passed, err = io.ReadAll(in)
	return passed, taken, err
}

func TestReader(t *testing.T) {
	long := bytes.Repeat([]byte("long"), 100_000)
	theirs := slices.Concat(packet(2, 3, nil), packet(103, 1, []byte("theirs")), packet(103, sftpwire.OwnIDs, long), packet(0, sftpwire.OwnIDs, []byte("not taken")))
	ours := slices.Concat(packet(103, sftpwire.OwnIDs|1, []byte("ours")), packet(101, sftpwire.OwnIDs|2, nil))
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data and error": iotest.DataErrReader,
	} {
		passed, taken, err := split(wrap(bytes.NewReader(slices.Concat(ours, theirs, ours))))
		if err != nil || !bytes.Equal(passed, theirs) || !bytes.Equal(taken, slices.Concat(ours, ours)) {
			t.Errorf("%s: %d bytes passed, %d taken, %v", name, len(passed), len(taken), err)
		}
	}
	if _, _, err := split(bytes.NewReader(make([]byte, 20))); !errors.Is(err, sftpwire.ErrMalformed) {
		t.Errorf("a length of 0: %v", err)
	}
	boom := errors.New("boom")
	if passed, _, err := split(io.MultiReader(bytes.NewReader(theirs[:30]), iotest.ErrReader(boom))); !errors.Is(err, boom) || !bytes.Equal(passed, theirs[:30]) {
		t.Errorf("%d bytes passed, %v", len(passed), err)
	}
}

// What is written at once arrives in whole packets, however the library writes them.
func TestWriter(t *testing.T) {
	var out bytes.Buffer
	w := sftpwire.NewWriter(&out)
	theirs := packet(103, 7, bytes.Repeat([]byte("t"), 1000))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 100 {
			n := i * 10
			if _, err := w.Write(theirs[:n]); err != nil {
				t.Error(err)
			}
			if _, err := w.Write(theirs[n:]); err != nil {
				t.Error(err)
			}
		}
	})
	for id := range uint32(100) {
		wg.Go(func() {
			if err := w.Send(101, sftpwire.OwnIDs|id, []byte("ours")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	passed, taken, err := split(&out)
	if err != nil || !bytes.Equal(passed, bytes.Repeat(theirs, 100)) || len(taken) != 100*len(packet(101, 0, []byte("ours"))) {
		t.Errorf("%d bytes passed, %d taken, %v", len(passed), len(taken), err)
	}
}

func TestPart(t *testing.T) {
	want := sftpwire.Part{Path: "/a b", Offset: 1 << 40, Size: sftpwire.MaxPart}
	blob := want
	blob.Blob, blob.Platform = sftpwire.MaxBlob, "linux/arm64"
	for _, want := range []sftpwire.Part{want, blob} {
		if got, mine, err := sftpwire.ParsePart(want.Append(nil)); got != want || !mine || err != nil {
			t.Errorf("%+v, %t, %v", got, mine, err)
		}
	}
	if _, mine, _ := sftpwire.ParsePart(sftpwire.AppendString(nil, "posix-rename@openssh.com")); mine {
		t.Error("it takes another's request")
	}
	good := want.Append(nil)
	large := sftpwire.Part{Size: sftpwire.MaxPart + 1}.Append(nil)
	of := blob.Append(nil)
	blob.Blob++
	for _, bad := range [][]byte{of[:len(of)-1], of[:len(of)-len("linux/arm64")-8], append(slices.Clone(of), 0), blob.Append(nil), good[:len(good)-1], append(slices.Clone(good), 0), large, sftpwire.Part{Offset: -1}.Append(nil), sftpwire.AppendString(nil, sftpwire.ReadFile)} {
		if _, mine, err := sftpwire.ParsePart(bad); !mine || !errors.Is(err, sftpwire.ErrMalformed) {
			t.Errorf("%q: %t, %v", bad, mine, err)
		}
	}
}

// FuzzReader compares the reader, on any stream, with one that has it all.
func FuzzReader(f *testing.F) {
	// A session of the library's client with its server.
	var both bytes.Buffer
	clientSide, serverSide := newPipe(&both)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = sftp.NewRequestServer(serverSide, sftp.InMemHandler()).Serve()
		_ = serverSide.Close()
	}()
	c, err := sftp.NewClientPipe(clientSide, clientSide)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := c.Stat("/"); err != nil {
		f.Fatal(err)
	}
	_ = c.Close()
	<-done
	f.Add(both.Bytes())
	f.Add(packet(sftpwire.TypeExtended, sftpwire.OwnIDs, sftpwire.Part{Path: "a", Size: 1}.Append(nil)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		passed, taken, err := split(iotest.HalfReader(bytes.NewReader(stream)))
		var wantPassed, wantTaken []byte
		rest := stream
		for len(rest) >= 9 {
			size := int64(binary.BigEndian.Uint32(rest)) + 4
			if size < 9 {
				if !errors.Is(err, sftpwire.ErrMalformed) {
					t.Fatalf("length %d: %v", size-4, err)
				}
				rest = nil
				break
			}
			one := rest[:min(size, int64(len(rest)))]
			id := binary.BigEndian.Uint32(rest[5:])
			if id >= sftpwire.OwnIDs && rest[4] != 0 && size-9 <= sftpwire.MaxPart+64<<10 && size <= int64(len(rest)) {
				wantTaken = append(wantTaken, one...)
			} else {
				wantPassed = append(wantPassed, one...)
			}
			rest = rest[len(one):]
		}
		wantPassed = append(wantPassed, rest...)
		if !bytes.Equal(passed, wantPassed) || !bytes.Equal(taken, wantTaken) {
			t.Fatalf("%x: passed %x, taken %x; want %x and %x", stream, passed, taken, wantPassed, wantTaken)
		}
	})
}

func FuzzPart(f *testing.F) {
	f.Add(sftpwire.Part{Path: "/srv/app/1.json", Offset: 1 << 18, Size: sftpwire.MaxPart}.Append(nil))
	f.Add(sftpwire.Part{Path: "/srv/app/1.json", Size: 9, Blob: 1, Platform: "linux/amd64"}.Append(nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		if p, mine, err := sftpwire.ParsePart(body); mine && err == nil && !bytes.Equal(p.Append(nil), body) {
			t.Errorf("%x: %+v", body, p)
		}
	})
}

// end is one end of a connection that is recorded.
type end struct {
	io.Reader
	io.WriteCloser
	mu  *sync.Mutex
	log *bytes.Buffer
}

func (e end) Write(p []byte) (int, error) {
	e.mu.Lock()
	e.log.Write(p)
	e.mu.Unlock()
	return e.WriteCloser.Write(p)
}

func newPipe(log *bytes.Buffer) (a, b end) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	mu := new(sync.Mutex)
	return end{ar, aw, mu, log}, end{br, bw, mu, log}
}
