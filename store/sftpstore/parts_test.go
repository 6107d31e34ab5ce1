package sftpstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

func status(code uint32, text string) []byte {
	return sftpwire.AppendString(sftpwire.AppendString(binary.BigEndian.AppendUint32(nil, code), text), "")
}

func dataOf(data, version string) []byte {
	return sftpwire.AppendString(sftpwire.AppendString(nil, data), version)
}

func TestAnswer(t *testing.T) {
	for blob, body := range map[string][]byte{"": dataOf("data", "v"), "b": sftpwire.AppendString(dataOf("data", "v"), "b")} {
		if data, version, of, err := answer(sftpwire.TypeData, body); string(data) != "data" || version != "v" || of != blob || err != nil {
			t.Errorf("%q, %q, %q, %v", data, version, of, err)
		}
	}
	for code, want := range map[uint32]error{2: fs.ErrNotExist, 3: fs.ErrPermission, 8: errNoParts} {
		if _, _, _, err := answer(sftpwire.TypeStatus, status(code, "text")); !errors.Is(err, want) {
			t.Errorf("%d: %v", code, err)
		}
	}
	_, _, _, err := answer(sftpwire.TypeStatus, status(4, strings.Repeat("\x1b", 5000)))
	if err == nil || len(err.Error()) > 2000 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%v", err)
	}
	for kind, body := range map[byte][]byte{
		sftpwire.TypeStatus: {1, 2, 3}, sftpwire.TypeData: {0, 0, 0, 9, 1}, 102: nil,
	} {
		if _, _, _, err := answer(kind, body); !errors.Is(err, sftpwire.ErrMalformed) {
			t.Errorf("%d %v: %v", kind, body, err)
		}
	}
}

// An answer to what was not asked is the library's, which takes it for the end; what is
// on its way at the end fails.
func TestPartsEnd(t *testing.T) {
	var out bytes.Buffer
	p := newParts(sftpwire.NewWriter(&out), flow.New(4))
	if p.take(sftpwire.TypeData, sftpwire.OwnIDs|9, nil) || p.wants(sftpwire.TypeData, 9) {
		t.Error("it takes what is not its own")
	}
	r := p.request(sftpwire.Part{Path: "/a", Size: 10}, false)
	p.fail()
	if <-r.done; !errors.Is(r.err, sftp.ErrSSHFxConnectionLost) || out.Len() == 0 {
		t.Errorf("%v, %d bytes sent", r.err, out.Len())
	}
	if r = p.request(sftpwire.Part{Path: "/a", Size: 10}, false); !errors.Is(r.err, sftp.ErrSSHFxConnectionLost) {
		t.Errorf("%v", r.err)
	}
}

// Parts of several versions of a file are not joined.
func TestPartsOfVersions(t *testing.T) {
	var out bytes.Buffer
	p := newParts(sftpwire.NewWriter(&out), flow.New(4))
	for _, versions := range [][]string{{"a", "a"}, {"a", "b"}} {
		var data []byte
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { data, _, err = p.read("/a", 2*sftpwire.MaxPart-1) })
		ids := make([]uint32, 0, 2)
		for len(ids) < 2 {
			runtime.Gosched()
			p.mu.Lock()
			ids = slices.Sorted(maps.Keys(p.coming))
			p.mu.Unlock()
		}
		for i, id := range ids {
			part := strings.Repeat(versions[i], sftpwire.MaxPart-i)
			if !p.take(sftpwire.TypeData, id, dataOf(part, versions[i])) {
				t.Error("it does not take an answer")
			}
		}
		wg.Wait()
		if versions[0] == versions[1] && (err != nil || len(data) != 2*sftpwire.MaxPart-1) || versions[0] != versions[1] && !errors.Is(err, errNoParts) {
			t.Errorf("%q: %d bytes, %v", versions, len(data), err)
		}
		if p.none.Load() {
			t.Error("no parts are asked for any more")
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(byte(sftpwire.TypeData), dataOf("data", "v"))
	f.Add(byte(sftpwire.TypeData), sftpwire.AppendString(dataOf("data", "v"), "blobs/sha256/00"))
	f.Add(byte(sftpwire.TypeStatus), status(4, "Failure"))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		data, version, blob, err := answer(kind, body)
		same := dataOf(string(data), version)
		if err == nil && (kind != sftpwire.TypeData || !bytes.Equal(same, body) && !bytes.Equal(sftpwire.AppendString(same, blob), body)) {
			t.Errorf("%d %x: %x", kind, body, data)
		}
	})
}
