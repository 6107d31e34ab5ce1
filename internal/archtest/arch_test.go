package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ociv2-sync/ociv2-sync"

// command is the program; it alone may import every other package.
const command = "cmd/ociv2-sync"

// edges says which packages of the module each package may import. A package that is
// not here fails the test: whoever adds one decides where it stands.
var edges = map[string][]string{
	"chunk": {"internal/multihash"},
	"catar": {},
	"caibx": {"chunk"},
	"toc":   {"chunk", "catar", "internal/numset"},
	"delta": {"toc", "internal/deflate"},

	"store":           {"chunk", "internal/xz"},
	"store/local":     {"chunk", "store", "internal/durable"},
	"store/httpstore": {"chunk", "store", "internal/flow"},
	"store/sshstore":  {"chunk", "store", "internal/casyncproto"},
	"store/sftpstore": {"store", "store/sshstore", "internal/flow", "internal/sftpwire"},
	"store/filestore": {"chunk", "store"},
	"store/s3store":   {"store", "internal/flow"},
	"store/storetest": {"chunk", "store"},

	"translate":   {"catar", "toc", "internal/inflate"},
	"chunkserver": {"chunk", "store"},
	"seed":        {"chunk", "caibx", "catar", "toc", "store", "internal/inflate", "internal/numset"},

	"internal/deflate":   {},
	"internal/durable":   {},
	"internal/flow":      {},
	"internal/sftpwire":  {},
	"internal/numset":    {},
	"internal/catalogue": {"seed", "internal/durable", "internal/numset"},
	"internal/tree":      {"chunk", "catar", "toc"},
	"internal/ingest":    {"chunk", "caibx", "store"},
	"internal/registry":  {},
	"internal/ocisrc":    {"translate", "internal/registry"},
	"internal/repo":      {"chunk", "caibx", "catar", "toc", "store", "store/httpstore", "translate", "internal/durable"},
	"internal/root":      {"internal/durable"},
	"internal/objects":   {"toc", "internal/tree"},
	"internal/offline":   {"chunk", "store", "internal/repo"},
	"internal/assemble":  {"chunk", "caibx", "toc", "store", "seed", "delta", "internal/objects", "internal/tree"},

	"internal/casyncproto": {"chunk", "caibx", "store"},
	"internal/inflate":     {},
	"internal/multihash":   {},
	"internal/pipe":        {},
	"internal/stores":      {"store", "store/filestore", "store/httpstore", "store/local", "store/s3store", "store/sftpstore", "store/sshstore", "internal/repo"},
	"internal/sftpserve":   {"internal/sftpwire"},
	"internal/archive":     {"chunk", "caibx", "catar", "store", "store/httpstore", "store/local", "internal/assemble", "internal/casyncproto", "internal/durable", "internal/ingest", "internal/makecache", "internal/pipe", "internal/stores", "internal/tree", "store/sshstore"},
	"internal/makecache":   {"chunk", "internal/durable"},
	"internal/transfer":    {"chunk", "caibx", "catar", "toc", "store", "store/httpstore", "store/local", "seed", "delta", "translate", "internal/assemble", "internal/bundle", "internal/catalogue", "internal/durable", "internal/ingest", "internal/objects", "internal/ocidest", "internal/offline", "internal/ocisrc", "internal/pipe", "internal/registry", "internal/repo", "internal/root", "internal/stores", "internal/tree", "store/sshstore"},
	"internal/xz":          {},
	"internal/ocidest":     {"toc", "translate", "internal/durable", "internal/registry"},
	"internal/bundle":      {},

	"internal/relay": {},
	"scripts/relay":  {"internal/relay"},

	"internal/archtest": {},
	"internal/testutil": {},

	"internal/repo/repotest": {"chunk", "store", "toc", "translate", "internal/ingest", "internal/repo", "internal/tree"},
}

// testOnly are the packages that only tests import.
var testOnly = []string{"internal/testutil", "internal/repo/repotest", "store/storetest"}

// pure are the format packages: they read and write streams and know neither files
// nor networks.
var pure = []string{"chunk", "catar", "caibx", "toc", "delta"}

// owners says which packages alone may import what begins with the path given.
var owners = map[string][]string{
	"github.com/andybalholm/brotli":         {"delta"},
	"oras.land/":                            {"internal/registry"},
	"github.com/BurntSushi/toml":            {"internal/registry"},
	"github.com/hashicorp/go-retryablehttp": {"store/httpstore"},
	"github.com/minio/minio-go/":            {"store/s3store"},
	"github.com/pkg/sftp":                   {"store/sftpstore", "internal/sftpserve"},
	"github.com/spf13/":                     {command},
	"github.com/vbauerster/mpb":             {command},
	"net/http":                              {command, "store/httpstore", "store/s3store", "chunkserver", "internal/registry", "internal/testutil"},
	// The peer is for tests to run against: it brings more than 30 MB.
	"github.com/folbricht/desync": {},
	// It makes layers for tests.
	"github.com/containerd/stargz-snapshotter/": {},
	"testing": testOnly,
	// Arguments and environment come in through options.
	"flag": {command, "scripts/relay"},
}

// foreign says which third-party modules the packages nearest to the format may
// import; others are free.
var foreign = map[string][]string{
	"chunk": {"golang.org/x/sys/cpu"}, // which kernels the processor runs
	"caibx": {"chunk"},
	"catar": {"github.com/dchest/siphash"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func list(t *testing.T) []pkg {
	t.Helper()
	noteSources(t)
	// -e: an import that does not exist yet is for the compiler to report.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Deps", module+"/...")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0") // as it is built
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatal("go list names no package")
	}
	return pkgs
}

// noteSources looks into every directory of the module: the go command reuses the result
// of a test until what the test itself has looked at changes.
func noteSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEdges(t *testing.T) {
	for _, p := range list(t) {
		allowed, known := edges[p.name()]
		if !known && p.name() != command {
			t.Errorf("%s is not in the table of edges", p.name())
			continue
		}
		for _, imported := range p.Imports {
			to, own := strings.CutPrefix(imported, module+"/")
			switch {
			case !own:
			case to == command:
				t.Errorf("%s imports the program", p.name())
			case slices.Contains(testOnly, to):
				t.Errorf("%s imports %s, which is for tests", p.name(), to)
			case p.name() != command && !slices.Contains(allowed, to):
				t.Errorf("%s must not import %s", p.name(), to)
			}
		}
	}
}

func TestForeignImports(t *testing.T) {
	for _, p := range list(t) {
		for _, imported := range p.Imports {
			for prefix, who := range owners {
				if covers(prefix, imported) && !slices.Contains(who, p.name()) {
					t.Errorf("%s must not import %s", p.name(), imported)
				}
			}
			if slices.Contains(pure, p.name()) && (covers("os", imported) || covers("net", imported) || imported == "syscall" || covers("golang.org/x/sys", imported) && imported != "golang.org/x/sys/cpu") {
				t.Errorf("%s reads and writes streams and must not import %s", p.name(), imported)
			}
			only, limited := foreign[p.name()]
			domain, _, _ := strings.Cut(imported, "/")
			if limited && strings.Contains(domain, ".") && !strings.HasPrefix(imported, module+"/") && !slices.Contains(only, imported) {
				t.Errorf("%s must not import %s", p.name(), imported)
			}
		}
	}
}

// covers reports whether path is prefix or lies below it.
func covers(prefix, path string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

// TestBinaryLinks looks at everything the program links, through other modules too.
func TestBinaryLinks(t *testing.T) {
	for _, p := range list(t) {
		if p.name() != command {
			continue
		}
		for _, dep := range p.Deps {
			for _, never := range []string{"github.com/folbricht/desync", "testing"} {
				if covers(never, dep) {
					t.Errorf("the program links %s", dep)
				}
			}
		}
	}
}
