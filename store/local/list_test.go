package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

func TestList(t *testing.T) {
	dir := t.TempDir()
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var want []chunk.ID
	for i := range 5 {
		id := chunk.ID{byte(i), 1}
		want = append(want, id)
		for _, form := range []store.Form{store.Compressed, store.Raw}[:1+i%2] {
			if err := s.Put(t.Context(), id, store.Packed{Form: form, Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What is none of the store's.
	hex := want[0].String()
	for _, name := range []string{"stray", "abcd", "0001/stray", "0001/" + hex + ".cacnk.tmp", hex} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "ffff"), 0o755), os.Mkdir(filepath.Join(dir, "xxxx"), 0o755),
		os.Symlink(dir+"/0001", filepath.Join(dir, "eeee")),
		os.Symlink("x", filepath.Join(dir, "0001", hex[:60]+"ffff.cacnk")),
		os.WriteFile(filepath.Join(dir, "0001", hex[:60]+"fff0.cacnk"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var got []chunk.ID
	for id, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if n, err := s.Prune(); n != 1 || err != nil { // ffff
		t.Errorf("pruned %d: %v", n, err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	lock := func(alone bool) (func() error, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return s.Lock(ctx, alone)
	}
	a, err := lock(false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := lock(false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("alone beside others: %v", err)
	}
	if err := errors.Join(a(), b()); err != nil {
		t.Fatal(err)
	}
	alone, err := lock(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shared beside one alone: %v", err)
	}
	if err := alone(); err != nil {
		t.Fatal(err)
	}
}
