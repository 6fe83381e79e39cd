package confine

import "errors"

// Check returns an error, which names the field, for what no thread could apply.
func (p Profile) Check() error { return nil }

// Apply confines the calling thread, which must be locked and should only exec after
// that.
func (p Profile) Apply() error { return errors.ErrUnsupported }
