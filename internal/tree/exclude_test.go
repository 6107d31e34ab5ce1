package tree

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestExcludeIsCasyncs compares exclude files made of random rules.
func TestExcludeIsCasyncs(t *testing.T) {
	casync := testutil.Tool(t, "casync")
	base := t.TempDir()
	var dirs []string
	var grow func(dir string, depth int)
	grow = func(dir string, depth int) {
		dirs = append(dirs, dir)
		for _, n := range []string{"a", "b", "ab", ".a", "a.b", "x y"} {
			write(t, filepath.Join(dir, n+".f"), "")
			write(t, filepath.Join(dir, "f"+n), "")
			if depth > 0 && len(n) < 3 {
				mkdir(t, filepath.Join(dir, n))
				grow(filepath.Join(dir, n), depth-1)
			}
		}
	}
	grow(base, 2)
	parts := []string{"a", "b", "ab", ".a", "*", "?", "a*", "*.f", "f*", "[ab]", "[!a]*", "?a", ".*", "*b*", `\a`, "x y.f", "[", "f[a-b]", "[[:alpha:]]", "f[[.a.]-c]", "f[[=a=]-c]", "[[:no:]a]", "f[z-a]", "/a", "[.]a", "f[!]a]", "***", `f\[a`}
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 120 {
		var files []string
		for range 1 + rnd.IntN(3) {
			var lines []string
			for range 1 + rnd.IntN(4) {
				var b strings.Builder
				if rnd.IntN(4) == 0 {
					b.WriteByte('!')
				}
				if rnd.IntN(4) == 0 {
					b.WriteByte('/')
				}
				b.WriteString(parts[rnd.IntN(len(parts))])
				for rnd.IntN(3) == 0 {
					b.WriteString("/" + parts[rnd.IntN(len(parts))])
				}
				if rnd.IntN(5) == 0 {
					b.WriteByte('/')
				}
				lines = append(lines, b.String())
			}
			f := filepath.Join(dirs[rnd.IntN(len(dirs))], excludeName)
			if slices.Contains(files, f) {
				continue
			}
			files = append(files, f)
			write(t, f, strings.Join(lines, "\n")+"\n")
		}
		out := filepath.Join(t.TempDir(), "o.catar")
		b, err := exec.Command(casync, "make", out, base).CombinedOutput()
		var got bytes.Buffer
		flags, _ := catar.ParseNames(nil, nil)
		err2 := Encode(t.Context(), base, EncodeOptions{Flags: (flags | defaultBits).Normalize()}, &got)
		if (err == nil) != (err2 == nil) {
			t.Errorf("round %d: casync %v %s, ours %v\n%s", round, err, b, err2, cat(files))
		} else if err == nil {
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got.Bytes()) {
				t.Errorf("round %d: %s\n%s", round, cat(files), firstDifference(want, got.Bytes()))
			}
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func cat(files []string) string {
	var s strings.Builder
	for _, f := range files {
		b, _ := os.ReadFile(f)
		fmt.Fprintf(&s, "%s:\n%s", f, b)
	}
	return s.String()
}

func TestParseRulesRefuses(t *testing.T) {
	for _, line := range []string{"..", "a//..", "a/..", "/", "!", "//", "!/", "."} {
		if _, err := parseRules("ok\n" + line + "\n"); !errors.Is(err, ErrExclude) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// FuzzExclude: any text is rules or an error, and matching agrees with the
// plainest matcher there is.
func FuzzExclude(f *testing.F) {
	f.Add("*.o\n!keep.o\n/a/b/\n[a-c]?\n", "keep.o")
	f.Add("[[:alpha:]-z]*[!]a]\\*", ".hidden")
	f.Add("f[[.a.]-c][[=x=]", "fbx")
	f.Fuzz(func(t *testing.T, text, name string) {
		rules, err := parseRules(text)
		if err != nil || name == "" || len(name)+len(text) > 100 || strings.Count(text, "*") > 8 { // the plainest doubles its time with each
			return
		}
		match(rules, name, true)
		for _, r := range rules {
			for _, p := range r.parts {
				want := plainMatch(p, name) && (name[0] != '.' || p[0] == '.' || strings.HasPrefix(p, `\.`))
				if got := fnmatch(p, name); got != want {
					t.Errorf("%q matches %q: %t, want %t", p, name, got, want)
				}
			}
		}
	})
}

func plainMatch(pattern, name string) bool {
	if pattern == "" || name == "" {
		return strings.Trim(pattern, "*") == "" && name == ""
	}
	if pattern[0] == '*' {
		return plainMatch(pattern[1:], name) || plainMatch(pattern, name[1:])
	}
	n, ok := matchOne(pattern, name[0])
	return ok && plainMatch(pattern[n:], name[1:])
}
