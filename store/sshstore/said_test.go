package sshstore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

func TestSaid(t *testing.T) {
	var got strings.Builder
	s := sshstore.NewSaid(&got)
	say := func(text string) {
		t.Helper()
		if n, err := fmt.Fprint(s, text); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	say("a\na\nPassword: ")
	s.Failed()
	say("b\na\nPassword: ")
	s.Failed()
	say("a\nb\nc\n")
	s.Worked()
	say("a\n")
	if want := "a\na\nPassword: b\nPassword: c\na\n"; got.String() != want {
		t.Errorf("%q is passed on, want %q", got.String(), want)
	}
}
