package repo

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
	"time"
)

// childDir names the repository that the child process of TestPublishKilled
// publishes to.
const childDir = "OCIV2_SYNC_TEST_PUBLISH"

// TestPublishKilled kills a process that publishes, again and again: the image
// must be whole at any moment, and nobody may have to wait for the dead.
func TestPublishKilled(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		publishForever(t, dir)
		return
	}
	dir := t.TempDir()
	p := publication(t, dir, "first", false)
	publish(t, dir+"/app:1", p)
	files := openDir(t, dir)
	for i := range 12 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPublishKilled$")
		cmd.Env = append(cmd.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child was not killed")
		}
		if _, _, err := readAll(t.Context(), files, mustRef(t, dir+"/app:1")); err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		started := time.Now()
		publish(t, dir+"/app:1", p)
		if waited := time.Since(started); waited > lockTime/2 {
			t.Fatalf("waited %v for a lock whose owner is dead", waited)
		}
	}
}

func publishForever(t *testing.T, dir string) {
	a, b := publication(t, dir, "second", false), publication(t, dir, "third", true)
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		t.Fatal(err)
	}
	for {
		publish(t, dir+"/app:1", a)
		publish(t, dir+"/app:1", b)
	}
}
