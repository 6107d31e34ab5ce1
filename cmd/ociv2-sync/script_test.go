package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestScripts runs the scripts that say how the commands behave. Beside what
// testscript has, a script can use the condition [root] and
//
//	exits CODE PROGRAM ARGS...    exec, and compare the exit code
//	sametree WANT GOT             compare two trees in every attribute
//	sametree -nolinks WANT GOT    the same, with hard links as files of their own
//	serving DIR                   serve a directory with nginx, at $URL
//	registry USER PASSWORD        start a registry at $REGISTRY, with an auth.json for it
//	s3 BUCKET...                  run an S3 service with these buckets, which s3:// is
//	sshd [COMMAND]                run sshd, which any host name leads to: for every
//	                              command, or for the one given in place of any
//	desync                        build desync's tool, which $DESYNC is then
//
// $TREE is a small tree that has everything a file system can hold, $BEYOND one
// that casync cannot make an archive of, $RELEASE1 and $RELEASE2 are two
// versions of one that has some megabytes. $OCIV2_SYNC_ROOT is set.
func TestScripts(t *testing.T) {
	shared := t.TempDir()
	vars := map[string]string{}
	for name, build := range map[string]func(testing.TB, string){
		"TREE": testutil.BuildTree,
		"BEYOND": func(t testing.TB, dir string) {
			testutil.BuildTree(t, dir)
			testutil.BuildBeyondCasync(t, dir)
		},
		"RELEASE1": func(t testing.TB, dir string) { buildRelease(t, dir, 1) },
		"RELEASE2": func(t testing.TB, dir string) { buildRelease(t, dir, 2) },
	} {
		vars[name] = filepath.Join(shared, name)
		build(t, vars[name])
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return os.Geteuid() == 0, nil
		},
		Setup: func(env *testscript.Env) error {
			for name, value := range vars {
				env.Setenv(name, value)
			}
			env.Setenv("OCIV2_SYNC_ROOT", filepath.Join(env.WorkDir, "root"))
			env.Setenv("OCIV2_SYNC_RETRY", "0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"sametree": sameTree,
			"desync": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Setenv("DESYNC", testutil.Desync(t))
			},
			"serving": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv("URL", testutil.StartNginx(t, ts.MkAbs(args[0])).URL)
			},
			"registry": func(ts *testscript.TestScript, _ bool, args []string) {
				host := testutil.StartRegistry(t, testutil.RegistryOptions{User: args[0], Password: args[1]})
				ts.Setenv("REGISTRY", host)
				auth := base64.StdEncoding.EncodeToString([]byte(args[0] + ":" + args[1]))
				ts.Check(os.WriteFile(ts.MkAbs("auth.json"), []byte(`{"auths":{"`+host+`":{"auth":"`+auth+`"}}}`), 0o600))
			},
			"s3": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv("AWS_ENDPOINT_URL_S3", testutil.StartS3(t, args...))
				ts.Setenv("AWS_ACCESS_KEY_ID", testutil.S3AccessKey)
				ts.Setenv("AWS_SECRET_ACCESS_KEY", testutil.S3SecretKey)
			},
			"sshd": func(ts *testscript.TestScript, _ bool, args []string) {
				program, err := exec.LookPath("ociv2-sync")
				ts.Check(err)
				forced := strings.Join(args, " ")
				if forced != "" {
					forced = program + strings.TrimPrefix(forced, "ociv2-sync")
				}
				ts.Setenv("CASYNC_SSH_PATH", testutil.StartSSHD(t, forced))
				ts.Setenv("OURS", program)
			},
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func sameTree(ts *testscript.TestScript, neg bool, args []string) {
	var leaveOut []func(string) testutil.Aspect
	if args[0] == "-nolinks" {
		leaveOut = append(leaveOut, testutil.Without(testutil.HardLinks))
		args = args[1:]
	}
	want, err := filepath.EvalSymlinks(ts.MkAbs(args[0]))
	ts.Check(err)
	got, err := filepath.EvalSymlinks(ts.MkAbs(args[1])) // an image's path is a symlink
	ts.Check(err)
	differences, err := testutil.DiffTrees(want, got, leaveOut...)
	ts.Check(err)
	if len(differences) > 0 != neg {
		ts.Fatalf("%d differences: %q", len(differences), differences[:min(10, len(differences))])
	}
}
