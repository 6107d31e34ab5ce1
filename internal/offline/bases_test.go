package offline

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/store"
)

func sampleBases() *Bases {
	return &Bases{
		Bases: []Base{{Prefix: [8]byte{1, 2, 3}, Size: 1 << 40}, {Prefix: [8]byte{4}, Size: 20_000}},
		Parts: []Part{{0, 0, 0}, {1, 0, 70_000}, {500, 1, 3}, {501, 0, 1 << 39}},
	}
}

// withBases returns a bundle with a list of bases.
func withBases(t *testing.T, list []byte) *Bundle {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	err := errors.Join(w.File("app/1.json", 2, bytes.NewReader([]byte("{}"))),
		w.File("app/bases", int64(len(list)), bytes.NewReader(list)), w.Close())
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := read("x", bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func TestBases(t *testing.T) {
	want := sampleBases()
	got, err := withBases(t, want.Append(nil)).Bases(t.Context(), 4000)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	none, err := read("x", bytes.NewReader(sample(t, "app/1.json")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := none.Bases(t.Context(), 4000); got != nil || err != nil {
		t.Errorf("%+v, %v of a bundle without", got, err)
	}
}

func TestBasesRefuses(t *testing.T) {
	good := sampleBases().Append(nil)
	change := func(f func(*Bases)) []byte {
		b := sampleBases()
		f(b)
		return b.Append(nil)
	}
	for name, list := range map[string][]byte{
		"nothing":            nil,
		"garbage":            []byte("hello"),
		"another version":    bytes.Replace(good, []byte("bases 1"), []byte("bases 2"), 1),
		"cut":                good[:len(good)-1],
		"cut in a base":      good[:len(basesMagic)+5],
		"more":               append(slices.Clone(good), 0),
		"many bases":         append([]byte(basesMagic), 0xff, 0xff, 0xff, 0xff, 0x7f),
		"a long number":      bytes.Replace(good, []byte{0xa0, 0x9c, 0x01}, []byte{0xa0, 0x9c, 0x81, 0}, 1),
		"no bases":           append([]byte(basesMagic), 0),
		"a base unused":      change(func(b *Bases) { b.Parts[2].Base = 0 }),
		"bases out of order": change(func(b *Bases) { b.Parts[0].Base = 1 }),
		"no such base":       change(func(b *Bases) { b.Parts[3].Base = 2 }),
		"a base twice":       change(func(b *Bases) { b.Bases[1] = b.Bases[0] }),
		"an empty base":      change(func(b *Bases) { b.Bases[1].Size = 0 }),
		"a chunk twice":      change(func(b *Bases) { b.Parts[1].Chunk = 0 }),
		"a far chunk":        change(func(b *Bases) { b.Parts[3].Chunk = 1 << 40 }),
		"a far offset":       change(func(b *Bases) { b.Parts[3].At = 1<<62 + 1 }),
	} {
		if got, err := withBases(t, list).Bases(t.Context(), 4000); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, ErrMalformed)
		}
	}
	huge := append(good, make([]byte, 3000)...)
	if _, err := withBases(t, huge).Bases(t.Context(), 1000); !errors.Is(err, ErrMalformed) || !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("%v, want %v", err, store.ErrTooLarge)
	}
}

// What is taken for a list of bases has one encoding, and is as the format says.
func FuzzBases(f *testing.F) {
	f.Add(sampleBases().Append(nil))
	f.Add([]byte(basesMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBases(data)
		if err != nil {
			return
		}
		if got := b.Append(nil); !bytes.Equal(got, data) {
			t.Errorf("%q encodes as %q", data, got)
		}
		last := -1
		for _, p := range b.Parts {
			if p.Chunk <= last || p.Base >= len(b.Bases) || p.At < 0 || b.Bases[p.Base].Size < 1 {
				t.Fatalf("%+v in %+v", p, b)
			}
			last = p.Chunk
		}
	})
}
