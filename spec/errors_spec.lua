-- SPDX-License-Identifier: Apache-2.0
describe("errors", function()
  local errors = require "fcvm.errors"

  it("read as sentences", function()
    assert.equal("open /x: no such file (make it)", tostring(errors.new { op = "open", subject = "/x",
      message = "no such file", hint = "make it" }))
    assert.equal("open: ENOENT", tostring(errors.new { op = "open", name = "ENOENT" }))
  end)

  it("know the number of a name", function()
    assert.equal(2, errors.new { name = "ENOENT" }.errno)
  end)

  it("are of a bounded size, whatever they tell of", function()
    local err = errors.new { op = "read", subject = ("s"):rep(1 << 20), message = ("m"):rep(1 << 20), hint = ("h"):rep(1 << 20) }
    assert.is_true(#tostring(err) < 8192)
    assert.matches("^read s+…: m+… %(h+…%)$", tostring(err))
  end)

  it("keep their cause when they are wrapped", function()
    local err = errors.wrap(errors.new { op = "open", subject = "/x", name = "ENOENT", message = "no" }, "start")
    assert.equal("start: open /x: no", tostring(err))
    assert.equal("ENOENT", err.name)
    assert.equal("start: boom", tostring(errors.wrap("boom", "start")))
  end)

  it("stand for exit statuses", function()
    assert.equal(66, errors.exit_status(errors.new { name = "ENOENT" }))
    assert.equal(80, errors.exit_status(errors.new { name = "ENOENT", status = errors.status.kvm }))
    assert.equal(71, errors.exit_status(errors.new { name = "EIO" }))
    -- What the page server says of a map or recording that is damaged, or of another memory file.
    assert.equal(65, errors.exit_status(errors.new { name = "EBADMSG" }))
    assert.equal(65, errors.exit_status(errors.new { name = "ESTALE" }))
    assert.equal(70, errors.exit_status "a string")
  end)

  it("name the option that was meant", function()
    local ok, err = pcall(errors.options, "run", { naem = "x" }, { name = "string", image = "string" })
    assert.is_false(ok)
    assert.matches("did you mean 'name'?", tostring(err), 1, true)
  end)

  it("name the type that an option must have", function()
    local ok, err = pcall(errors.options, "run", { name = 1.5 }, { name = "string integer" })
    assert.is_false(ok)
    assert.matches("'name' must be string integer, not a float", tostring(err), 1, true)
    assert.same({ name = 1 }, errors.options("run", { name = 1 }, { name = "string integer" }))
  end)
end)
