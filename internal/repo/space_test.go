package repo_test

import (
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/repo/repotest"
)

func TestDirSpace(t *testing.T) {
	repotest.Run(t, func(t *testing.T) repo.Space {
		d, err := repo.CreateDir(t.TempDir() + "/new")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return d
	})
}
