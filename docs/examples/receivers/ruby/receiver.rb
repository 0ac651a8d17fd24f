# A receiver with Ruby and WEBrick: gem install webrick; ruby receiver.rb
# (The gem standardwebhooks does the same in its Webhook class.)
require "json"
require "openssl"
require "webrick"

SECRET = ENV.fetch("RELAY_ENDPOINT_SECRET").delete_prefix("whsec_").unpack1("m0")

def genuine?(request, body)
  id, timestamp = request["webhook-id"].to_s, request["webhook-timestamp"].to_s
  return false if id.empty? || !timestamp.match?(/\A[0-9]{1,12}\z/) || (Time.now.to_i - timestamp.to_i).abs > 300

  expected = "v1," + [OpenSSL::HMAC.digest("SHA256", SECRET, "#{id}.#{timestamp}.".b + body.b)].pack("m0")
  given = request["webhook-signature"].to_s.split
  given.map { |one| OpenSSL.secure_compare(expected, one) }.any?
end

server = WEBrick::HTTPServer.new(Port: Integer(ENV.fetch("PORT", "8080")), AccessLog: [])
server.mount_proc("/hook") do |request, response|
  body = request.body.to_s
  if genuine?(request, body)
    puts JSON.parse(body)["type"] # store it here: the same event may come again, with the same webhook-id
    response.status = 204
  else
    response.status = 400
  end
end
trap("TERM") { server.shutdown }
server.start
