package offline

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// sample returns a bundle of some files.
func sample(t testing.TB, first string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	id := chunk.SHA512_256.Sum([]byte("chunk"))
	err := errors.Join(w.File(first, 2, bytes.NewReader([]byte("{}"))),
		w.File("team/app/blobs/sha256/00", 0, bytes.NewReader(nil)),
		w.Chunk(id, store.Packed{Form: store.Raw, Data: []byte("chunk")}), w.Close())
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBundle(t *testing.T) {
	digest := "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for first, ref := range map[string]repo.Ref{
		"team/app/1.json":                 {Repo: "x", Name: "team/app", Tag: "1"},
		"team/app/blobs/sha256/" + digest: {Repo: "x", Name: "team/app", Digest: "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
	} {
		b, err := read("x", bytes.NewReader(sample(t, first)))
		if err != nil {
			t.Fatal(err)
		}
		if b.Ref() != ref {
			t.Errorf("%+v, want %+v", b.Ref(), ref)
		}
		if got, err := b.ReadFile(t.Context(), first, 2); string(got) != "{}" || err != nil {
			t.Errorf("ReadFile = %q, %v", got, err)
		}
		if _, err := b.ReadFile(t.Context(), first, 1); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("ReadFile = %v, want %v", err, store.ErrTooLarge)
		}
		r, err := b.OpenAt(t.Context(), first, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); string(got) != "}" || err != nil {
			t.Errorf("OpenAt = %q, %v", got, err)
		}
		for _, r := range [][2]int64{{-1, 1}, {0, 3}, {2, 1}, {1 << 62, 1 << 62}} {
			if _, err := b.OpenAt(t.Context(), first, r[0], r[1]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("OpenAt %v = %v", r, err)
			}
		}
		p, err := b.Get(t.Context(), chunk.SHA512_256.Sum([]byte("chunk")), 5)
		if err != nil || p.Form != store.Raw || string(p.Data) != "chunk" {
			t.Errorf("Get = %+v, %v", p, err)
		}
		if _, err := b.Get(t.Context(), chunk.SHA512_256.Sum([]byte("other")), 5); !errors.Is(err, store.ErrNotFound) || !errors.Is(err, ErrLacks) {
			t.Errorf("Get = %v", err)
		}
	}
}

func TestBundleRefuses(t *testing.T) {
	good := sample(t, "app/1.json")
	cut := map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "half": good[:600], "no end": good[:len(good)/2],
		"two files of a name": bytes.Join([][]byte{good[:1024], good[:1024], good[1024:]}, nil),
	}
	for _, first := range []string{"1.json", "../app/1.json", "/app/1.json", "app/index.json", "app/blobs/sha256/xy", "app//1.json"} {
		cut[first] = sample(t, first)
	}
	for name, b := range cut {
		if _, err := read("x", bytes.NewReader(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want %v", name, err, ErrMalformed)
		}
	}
}

// Whatever is taken for a bundle can be written again, and read.
func FuzzRead(f *testing.F) {
	f.Add(sample(f, "app/1.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := read("x", bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		w := NewWriter(&again)
		first := b.ref.Name + "/" + b.ref.Tag + ".json"
		if b.ref.Digest != "" {
			first = b.ref.Name + "/blobs/sha256/" + b.ref.Digest.Encoded()
		}
		names := []string{first}
		for name := range b.files {
			if name != first {
				names = append(names, name)
			}
		}
		want := map[string][]byte{}
		for _, name := range names {
			content, err := b.ReadFile(t.Context(), name, int64(len(data)))
			if err != nil {
				return // a file that is cut short
			}
			want[name] = content
			if err := w.File(name, int64(len(content)), bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := read("x", bytes.NewReader(again.Bytes()))
		if err != nil || c.Ref() != b.Ref() || len(c.files) != len(b.files) {
			t.Fatalf("read again: %v", err)
		}
		for name, content := range want {
			if got, err := c.ReadFile(t.Context(), name, int64(len(content))); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%q: %q, %v, want %q", name, got, err, content)
			}
		}
	})
}
