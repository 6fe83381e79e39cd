package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// RemoveAll removes a folder with all in it, as os.RemoveAll does, and needs no privileges for
// folders of the caller's own whose modes forbid it: those in images, and the work folder that
// overlayfs leaves with mode 000. It follows no symlink. A folder that does not exist is no error.
func RemoveAll(folder string) error {
	err := os.RemoveAll(folder)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	// WalkDir calls the function before it reads the folder.
	walked := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	return errors.Join(walked, os.RemoveAll(folder))
}
